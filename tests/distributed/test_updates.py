"""The update of many processes is that of one: on every layout, for every preset, in float64."""

import layouts
import pytest
from shared_cases import PRESETS

EXACT = 1e-12
MAIN = ("PolarGrad", "PolarGrad, found", "Muon")
# The one that needs most: numbers of whole matrices, votes among all of them, three kinds of state.
FEW = [(layout, "PolarGrad, found", 2) for layout in layouts.LAYOUTS]
FEW += [(layout, "Muon", 2) for layout in ("replicated", "fully_shard")]
# Of each kind of order, geometry and state one; the rest is among those of twenty steps.
KINDS = (
    "PolarGrad",
    "PolarGrad, recorded",
    "PolarGrad, polyak",
    "PolarGrad, corrected",
    "OneSidedPolarGrad",
    "RowNorm",
    "Shampoo",
    "SOAP",
)
FEW += [("fully_shard", preset, 2) for preset in KINDS]
# What directions say is followed two steps later.
OF_DIRECTIONS = "PolarGrad, polar-first, found"
FEW += [(layout, OF_DIRECTIONS, 5) for layout in ("hybrid", "fully_shard", "tensor parallel")]
OF_TWO = ("replicated", "fully_shard", "fully_shard, last dimension", "tensor parallel")
MANY = [(layout, preset, 20) for layout in layouts.LAYOUTS for preset in MAIN]
MANY += [("fully_shard", preset, 20) for preset in PRESETS if preset not in MAIN]


def checked(results, tolerance=EXACT):
    """The largest distance over the processes, of a step that has changed every parameter."""
    for distance, name, moved in results:
        assert moved > 1e-4
        assert distance < tolerance, name


def cases_of(tried):
    return [
        ("updates", {"layout": layout, "preset": preset, "steps": steps})
        for layout, preset, steps in tried
    ]


MISSING = ("tall.weight", "wide.bias", "conv.weight")
GAPS = [
    ("updates", {"layout": layout, "preset": "PolarGrad", "missing": MISSING})
    for layout in ("replicated", "hybrid")
]
CUT = [("shards_as_matrices", {"layout": layout}) for layout in ("fully_shard", "tensor parallel")]
TIED = ("trained_and_tied", {})
PARTIAL = ("partial_gradient", {})
BY_ONE = [("one_by_one", {"layout": layout}) for layout in ("replicated", "fully_shard")]
BACK = ("shards_into_a_whole_state", {"layout": "hybrid"})
LOADED = ("whole_state_into_shards", {"layout": "hybrid"})
RATIO = ("ratio_of_sums", {})
SAME = [
    ("same_everywhere", {"preset": preset})
    for preset in ("PolarGrad, found", OF_DIRECTIONS, "Shampoo")
]
LAYOUTS_OF_NORMS = ("replicated", "hybrid", "fully_shard", "fully_shard, last dimension")
NORMS = [
    ("norms_of_directions", {"layout": layout, "preset": OF_DIRECTIONS})
    for layout in (*LAYOUTS_OF_NORMS, "tensor parallel")
]
ROUNDED = ("copies_agree", {"layout": "hybrid"})


RANDOM = [
    ("random_shapes", {"layout": layout, "seed": seed})
    for layout in ("replicated", "fully_shard")
    for seed in range(6)
]


@pytest.fixture(scope="module")
def few_of_three(run):
    return dict(zip(map(str, RANDOM), run(3, RANDOM), strict=True))


@pytest.fixture(scope="module")
def few(run):
    """All layouts with the main presets, all presets on one layout, and what needs no launch."""
    cases = [
        *cases_of(FEW),
        *GAPS,
        *CUT,
        *SAME,
        *NORMS,
        *BY_ONE,
        LOADED,
        BACK,
        RATIO,
        TIED,
        PARTIAL,
        ROUNDED,
    ]
    return dict(zip(map(str, cases), run(4, cases), strict=True))


@pytest.mark.parametrize(("layout", "preset", "steps"), FEW)
def test_the_update_is_that_of_one_device(few, layout, preset, steps):
    checked(few[str(cases_of([(layout, preset, steps)])[0])])


@pytest.mark.parametrize("case", GAPS, ids=str)
def test_parameters_without_a_gradient_are_left_alone(few, case):
    checked(few[str(case)])


@pytest.mark.parametrize("case", CUT, ids=str)
def test_taking_shards_for_matrices_would_be_noticed(few, case):
    """The mutation that these tests are for."""
    assert min(few[str(case)]) > 1e-3


def test_a_tied_model_trains_as_on_one_device(few):
    """With its own backward pass, whose sums come in another order."""
    for (table, *mine), (same, *alone) in few[str(TIED)]:
        assert mine == pytest.approx(alone, rel=1e-9)
        assert mine[-1] < mine[0]
        assert table == same


def test_a_gradient_that_is_not_added_up_is(few):
    """As tensor parallelism leaves some."""
    assert max(few[str(PARTIAL)]) < EXACT


@pytest.mark.parametrize("case", SAME, ids=str)
def test_copies_and_their_states_stay_equal_to_the_bit(few, case):
    assert len(set(few[str(case)])) == 1


@pytest.mark.parametrize("case", NORMS, ids=str)
def test_norms_of_directions_are_those_of_one_device(few, case):
    for of_one_process in few[str(case)]:
        assert len(of_one_process) > 4
        for (norms, vectors), (expected, fixed) in of_one_process:
            assert norms == pytest.approx(expected, rel=1e-5)
            assert vectors == pytest.approx(fixed, rel=1e-5, abs=1e-5)
            assert min(norms) > 0


@pytest.mark.parametrize("case", BY_ONE, ids=str)
def test_parameters_may_be_stepped_one_by_one(few, case):
    assert max(few[str(case)]) < EXACT


def test_a_whole_state_is_loaded_into_shards(few):
    """As a plain load_state_dict of what one process saved."""
    assert max(few[str(LOADED)]) < EXACT


def test_a_state_of_shards_is_loaded_whole(few):
    assert max(few[str(BACK)]) < EXACT


def test_the_ratio_of_accumulated_gradients_is_that_of_whole_ones(few):
    assert few[str(RATIO)] == pytest.approx([3.0] * 4)


def test_copies_of_a_shard_round_alike(few):
    """Processes 0 and 2 hold copies, and so do 1 and 3; others hold other entries."""
    held = few[str(ROUNDED)]
    for first, second in ((0, 2), (1, 3)):
        for name, (index, values) in held[first].items():
            assert index.equal(held[second][name][0])
            assert values.equal(held[second][name][1])


@pytest.fixture(scope="module")
def four(run):
    """Twenty steps of the main presets on every layout, and of every preset on one."""
    return dict(zip(MANY, run(4, cases_of(MANY), watchdog=1200), strict=True))


@pytest.fixture(scope="module")
def two(run):
    """Twenty steps of the main presets in two processes."""
    tried = [(layout, preset, 20) for layout in OF_TWO for preset in MAIN]
    return dict(zip(tried, run(2, cases_of(tried), watchdog=600), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "preset", "steps"), MANY)
def test_after_twenty_steps_in_four_processes(four, layout, preset, steps):
    checked(four[layout, preset, steps], 4 * EXACT)  # rounding adds up


@pytest.mark.slow
@pytest.mark.parametrize("layout", OF_TWO)
@pytest.mark.parametrize("preset", MAIN)
def test_after_twenty_steps_in_two_processes(two, layout, preset):
    checked(two[layout, preset, 20])


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_shapes_at_random_among_three_processes(few_of_three, case):
    """From one row on more processes to one on each, and what is empty."""
    for distance, _, _ in few_of_three[str(case)]:
        assert distance < EXACT
