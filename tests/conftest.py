"""What all tests share: property tests are repeatable."""

from hypothesis import settings

# Two cores under load miss deadlines, and a test that fails has to fail again.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
