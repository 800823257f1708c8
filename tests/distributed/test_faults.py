"""What goes wrong on one process: all skip or raise together, and none waits for ever."""

import pytest
import ranks

LAYOUTS = ("replicated", "fully_shard", "hybrid")
NONFINITE = [
    ("nonfinite", {"layout": layout, "mode": mode})
    for layout in LAYOUTS
    for mode in ("skip", "raise")
]
# In a vector, and in an entry that the last process holds.
NONFINITE += [("nonfinite", {"layout": "fully_shard", "mode": "skip", "name": "wide.bias"})]
NONFINITE += [("nonfinite", {"layout": "fully_shard", "mode": "raise", "entry": -1})]
DIFFERENT = [
    ("different", {"layout": layout, "kind": kind})
    for layout in ("replicated", "fully_shard")
    for kind in ("order", "gradient")
]
EARLY = ("made_too_early", {})
LATE = ("is_late", {"layout": "fully_shard", "seconds": 1.0})


@pytest.fixture(scope="module")
def told(run):
    cases = [*NONFINITE, *DIFFERENT, EARLY, LATE]
    return dict(zip(map(str, cases), run(4, cases), strict=True))


@pytest.mark.parametrize("case", NONFINITE, ids=str)
def test_a_gradient_that_is_not_finite_stops_all_processes(told, case):
    """Nothing changes anywhere, and the next step is taken everywhere."""
    results = told[str(case)]
    assert all(same and moved for same, _, _, moved in results)
    skipped = 1 if case[1]["mode"] == "skip" else 0
    assert [count for _, count, _, _ in results] == [skipped] * 4
    if case[1]["mode"] == "raise":
        messages = [message for _, _, message, _ in results]
        assert all("finite" in message for message in messages)
        assert any("tall.weight" in message for message in messages)
        if case[1]["layout"] != "replicated":
            assert any("another process holds" in message for message in messages)


@pytest.mark.parametrize("case", DIFFERENT, ids=str)
def test_processes_with_different_parameters_are_told_which(told, case):
    for message in told[str(case)]:
        assert "processes are about to step different parameters" in message
        assert "on process 0 and" in message
        assert "on process 3" in message
        if case[1]["kind"] == "gradient":
            assert "wide.weight of shape (8, 12), torch.float64" in message
            assert "without a gradient on process 3" in message


def test_an_optimizer_made_before_fully_shard_says_that_it_does_nothing(told):
    for messages in told[str(EARLY)]:
        (message,) = messages
        assert "none of the 15 parameters" in message
        assert "make the optimizer after fully_shard" in message


def test_a_process_that_is_late_is_waited_for(told):
    assert max(told[str(LATE)]) < 1e-12


@pytest.mark.parametrize("layout", ["replicated", "fully_shard"])
def test_a_process_that_dies_ends_the_others_with_an_error(tmp_path, layout):
    """Long before the time limit; it names the exchange and the matrices."""
    case = ("shared_cases", "dies", {"layout": layout, "after": 1})
    *others, _ = ranks.launch(3, [case], tmp_path, timeout=60.0, watchdog=110, together=False)
    for ((message, seconds),) in others:
        check_failure(message, layout)
        assert seconds < 50.0


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["replicated", "fully_shard"])
def test_a_process_that_hangs_is_not_waited_for_longer_than_the_time_limit(tmp_path, layout):
    case = ("shared_cases", "dies", {"layout": layout, "after": 1, "sleeps": 40.0})
    *others, _ = ranks.launch(3, [case], tmp_path, timeout=5.0, watchdog=110, together=False)
    for ((message, seconds),) in others:
        check_failure(message, layout)
        assert seconds < 35.0


def check_failure(message, layout):
    """The exchange and the matrices are named."""
    exchange = "broadcast" if layout == "replicated" else "all_to_all_single"
    assert f"{exchange} of the " in message
    assert ".weight" in message
    assert "another process has probably ended or is too late" in message
