"""Approximate steps of many processes are those of one, and send no more than they say."""

import layouts
import pytest
import torch
from shared_cases import made

RANKS = 4
EXACT = 1e-12
# On every layout; the first step finds all directions, and each matrix has one turn after it.
TRIED = [(layout, "PolarGrad, rounds", 4) for layout in layouts.LAYOUTS]
TRIED += [(layout, "PolarGrad, sketch", 3) for layout in layouts.LAYOUTS]
TRIED += [("fully_shard", "PolarGrad, found, rounds", 4), ("hybrid", "Muon, rounds", 5)]
TRIED += [("fully_shard", "Muon, sketch", 3)]
UPDATES = [
    ("updates", {"layout": layout, "preset": preset, "steps": steps})
    for layout, preset, steps in TRIED
]
ERRORS = [
    ("errors", {"layout": layout, "preset": preset, "steps": 3})
    for layout, preset in (
        ("fully_shard and tensor parallel", "PolarGrad, rounds"),
        ("hybrid", "PolarGrad, sketch"),
    )
]


def counted(layout, preset, steps, **more):
    return "steps_counted", {"layout": layout, "preset": preset, "steps": steps, **more}


LAYOUTS = ("replicated", "fully_shard")
ROUNDS = [counted(layout, "Muon, rounds", 5) for layout in LAYOUTS]
PLAIN = [counted(layout, "Muon", 2) for layout in LAYOUTS]
ONE = counted("fully_shard", "Muon, rounds", 4, only="layers.0.weight")
SKETCH = [counted(layout, "Muon, sketch", 2) for layout in LAYOUTS]


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    """All in one launch."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    cases = [*UPDATES, *ERRORS, *ROUNDS, *PLAIN, ONE, *SKETCH, *resumptions(folder)]
    results = run(RANKS, cases, module="approximation_cases")
    keys = [*map(str, cases[:-4]), *range(4)]
    return dict(zip(keys, results, strict=True))


def resumptions(folder):
    """A checkpoint of one layout, loaded into another, for both approximations."""
    return [
        (
            "resumed",
            {
                "folder": folder,
                "layout": layout,
                "preset": preset,
                "load": f"{preset}, saved" if load else None,
                "save": f"{preset}, again" if load else f"{preset}, saved",
                "first": 2 * load,
                "steps": 2,
            },
        )
        for preset in ("PolarGrad, rounds", "PolarGrad, sketch")
        for load, layout in enumerate(("fully_shard", "hybrid"))
    ]


@pytest.mark.parametrize("case", UPDATES, ids=str)
def test_the_update_is_that_of_one_device(found, case):
    for distance, name, moved in found[str(case)]:
        assert moved > 1e-4
        assert distance < EXACT, name


@pytest.mark.parametrize("case", ERRORS, ids=str)
def test_all_measure_the_errors_of_one_device(found, case):
    for together, alone in found[str(case)]:
        assert together.keys() == alone.keys()
        assert any(distance > 0.05 for distance, _ in together.values())
        for key, values in alone.items():
            assert together[key] == pytest.approx(values, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize(("rounds", "plain"), list(zip(ROUNDS, PLAIN, strict=True)), ids=LAYOUTS)
def test_a_round_takes_and_sends_what_one_exact_step_does(found, rounds, plain):
    """Of four steps, each about a fourth; and the first step is an exact one."""
    exact = [rows[1] for rows in found[str(plain)]]
    steps = list(zip(*found[str(rounds)], strict=True))
    for which in (0, 1):  # products, bytes
        whole = sum(row[which] for row in exact)
        taken = [sum(row[which] for row in of_ranks) for of_ranks in steps]
        assert taken[0] == whole
        assert sum(taken[1:]) == pytest.approx(whole, rel=0.01)
        assert max(taken[1:]) < 0.5 * whole


def test_of_a_matrix_whose_turn_it_is_not_one_number_is_summed(found):
    """Beside the verdict on the gradients, which is three."""
    for first, *others in found[str(ONE)]:
        assert first[3].count("all_to_all_single") == 2
        for flops, sent, reduced, calls in others:
            assert (flops, sent, reduced) == (0, 0, 3 * 8 + 8)
            assert calls == ["all_reduce", "all_reduce"]


@pytest.mark.parametrize("case", SKETCH, ids=LAYOUTS)
def test_of_a_sketch_two_thin_matrices_are_summed(found, case):
    shapes = [x.shape for x in layouts.weights(layouts.Large).values()]
    thin = 8 * sum(3 * (m + n) for m, n in shapes)
    for steps in found[str(case)]:
        for _, sent, reduced, calls in steps:
            assert (sent, reduced) == (0, thin + 3 * 8)
            assert calls == ["all_reduce"] * 3


@pytest.mark.parametrize("which", [0, 1], ids=["rounds", "sketch"])
def test_a_checkpoint_of_another_layout_is_loaded_to_the_bit(found, which):
    """And two steps later all is as if it had been one run on one device."""
    (_, left), (loaded, after) = (found[2 * which + k][0] for k in range(2))
    kept = "kept_direction" if which == 0 else "sketch_right"
    assert any(name.endswith(kept) for name in left)
    assert left.keys() == loaded.keys()
    for name, value in left.items():
        assert torch.equal(value, loaded[name]), name
        assert value.dtype == loaded[name].dtype, name
    preset = ("PolarGrad, rounds", "PolarGrad, sketch")[which]
    wholes, _ = layouts.alone(lambda groups: made(preset, groups), 4)
    for name, value in wholes.items():
        torch.testing.assert_close(after[f"model.{name}"], value, rtol=0, atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_in_fewer_processes(run, count):
    cases = [
        ("updates", {"layout": layout, "preset": preset, "steps": 4})
        for layout in ("replicated", "fully_shard", "tensor parallel")
        for preset in ("PolarGrad, rounds", "PolarGrad, sketch")
    ]
    for case, results in zip(cases, run(count, cases), strict=True):
        for distance, name, _ in results:
            assert distance < EXACT, (case, name)
