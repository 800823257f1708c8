"""Parity: our optimizer and a peer's formula, given the same gradients, stand at the same place.

A peer is a generator function ``peer(x, gradients)`` that yields the parameter after each step. It
is written from the peer's equations alone, in the dtype of what it is given.
"""

import pytest
import torch
from torch import nn

SHAPES = [(9, 5), (5, 9), (6, 6), (9, 5)]  # the last shares a stack with the first


def _randn(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _agrees(
    make, peer, *, shapes=SHAPES, steps=5, tolerance=1e-12, dtype=torch.float64, scale=1.0
):
    """Assert that no entry is off by more than ``tolerance`` after any step, for each shape."""
    starts = [_randn(shape, 100 + i, dtype) for i, shape in enumerate(shapes)]
    histories = [
        [scale * _randn(shape, 1000 * (step + 1) + i, dtype) for step in range(steps)]
        for i, shape in enumerate(shapes)
    ]
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = make(params)
    ways = [peer(x, history) for x, history in zip(starts, histories, strict=True)]
    for step, places in enumerate(zip(*ways, strict=True)):
        for p, history in zip(params, histories, strict=True):
            p.grad = history[step].clone()
        optimizer.step()
        for p, place in zip(params, places, strict=True):
            torch.testing.assert_close(p.detach(), place, rtol=0, atol=tolerance)


@pytest.fixture(scope="session")
def randn():
    """``randn(shape, seed, dtype)``: the same numbers for a seed, rounded to the dtype."""
    return _randn


@pytest.fixture(scope="session")
def agrees():
    """``agrees(make, peer, ...)``: ``make(params)`` and the peer, from the same start."""
    return _agrees
