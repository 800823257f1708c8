"""torch.distributed.checkpoint across numbers of processes and layouts: equal to the bit."""

import itertools

import layouts
import pytest
import ranks
import torch
from shared_cases import made

STEPS = 2
# Processes, and how they share the model.
ROAD = [
    (1, layouts.ALONE),
    (4, "fully_shard"),
    (2, "fully_shard, last dimension"),
    (1, layouts.ALONE),
]
STATES = (
    *("PolarGrad, corrected", "Muon", "Shampoo", "SOAP"),
    *("PolarGrad, rounds", "PolarGrad, sketch"),
)
ACROSS = [(4, "hybrid"), (4, "fully_shard and tensor parallel"), (2, "replicated")]


def travel(road, preset, tmp_path):
    """What each part of the road loaded and left behind, as its first process has it."""
    (tmp_path / "saved").mkdir()
    found = []
    for number, (count, layout) in enumerate(road):
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments = {
            "folder": str(tmp_path / "saved"),
            "layout": layout,
            "preset": preset,
            "load": number - 1 if number else None,
            "save": number,
            "first": STEPS * number,
            "steps": STEPS,
        }
        results = ranks.launch(count, [("shared_cases", "resumed", arguments)], folder)
        assert not isinstance(results[0][0], str), results[0][0]
        found.append(results[0][0])
    return found


def check(road, preset, tmp_path):
    parts = travel(road, preset, tmp_path)
    for (_, left), (loaded, _) in itertools.pairwise(parts):
        assert left.keys() == loaded.keys()
        for name, value in left.items():
            assert torch.equal(value, loaded[name]), name
            assert value.dtype == loaded[name].dtype, name
    wholes, _ = layouts.alone(lambda groups: made(preset, groups), STEPS * len(road))
    for name, value in wholes.items():
        torch.testing.assert_close(parts[-1][1][f"model.{name}"], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", ["PolarGrad, found", "PolarGrad, polar-first, found"])
def test_from_one_process_to_four_to_two_to_one(tmp_path, preset):
    """And after all of it the parameters are those of one process that never stopped."""
    check(ROAD, preset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("road", [ROAD, ACROSS], ids=["sizes", "layouts"])
@pytest.mark.parametrize("preset", STATES)
def test_every_kind_of_state(tmp_path, road, preset):
    check(road, preset, tmp_path)


@pytest.mark.slow
def test_across_layouts(tmp_path):
    check(ACROSS, "PolarGrad, found", tmp_path)
