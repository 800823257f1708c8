"""What holds for all tests: they touch no cache of the user, and leave accelerate as it was."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """A cache of tokens for this session; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(autouse=True)
def _own_accelerator():
    """accelerate keeps an Accelerator's settings in the process: the next test begins without."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None and state.PartialState._shared_state:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
