"""What all tests share: folders of their own, no network, and property tests that are repeatable."""

import pytest
from hypothesis import settings

# Two cores under load miss deadlines, and a test that fails has to fail again.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def own_folders_and_no_network(tmp_path_factory):
    """Keep the user's feature cache and weights untouched and download nothing, also in subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLYCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        patch.setenv("FULLYCONV_OFFLINE", "1")
        yield
