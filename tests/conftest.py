"""What all tests share: a feature cache of their own, and property tests that are repeatable."""

import pytest
from hypothesis import settings

# Two cores under load miss deadlines, and a test that fails has to fail again.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def own_feature_cache(tmp_path_factory):
    """Keep the user's feature cache untouched, also in subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLYCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
