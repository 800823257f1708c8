"""A step leaves nothing behind for the garbage collector: stacks are as large as the matrices."""

import gc

import pytest
import torch
from peak import Peak
from shared_cases import PRESETS, made


@pytest.fixture
def _no_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_leaves_no_memory_in_a_cycle(preset):
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (6, 4), (3, 5), (8, 8)]
    weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    optimizer = made(preset, [{"params": weights}])
    held = []
    with Peak() as peak:
        for _ in range(7):
            for p in weights:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
            held.append(peak.now)
    # The first steps make state: with rounds of four all have had their turn by the fourth.
    assert held[6] <= held[3]
