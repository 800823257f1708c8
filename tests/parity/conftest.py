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


def _problem(shapes, steps, dtype):
    """A start for each shape, and the gradients of all its steps."""
    starts = [_randn(shape, 100 + i, dtype) for i, shape in enumerate(shapes)]
    histories = [
        [_randn(shape, 1000 * (step + 1) + i, dtype) for step in range(steps)]
        for i, shape in enumerate(shapes)
    ]
    return starts, histories


def _ours(make, starts, histories):
    """The parameters after each step, all of them in one optimizer."""
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = make(params)
    for gradients in zip(*histories, strict=True):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        yield [p.detach().clone() for p in params]


def _theirs(peer, starts, histories):
    return zip(*(peer(x, h) for x, h in zip(starts, histories, strict=True)), strict=True)


def _apart(these, those):
    """The root of the sum of squares of all differences."""
    pairs = zip(these, those, strict=True)
    return sum((a.double() - b.double()).square().sum() for a, b in pairs) ** 0.5


def _agrees(make, peer, *, shapes=SHAPES, steps=5, tolerance=1e-12):
    """Assert in float64 that after every step no entry is off by more than ``tolerance``."""
    starts, histories = _problem(shapes, steps, torch.float64)
    ways = zip(_ours(make, starts, histories), _theirs(peer, starts, histories), strict=True)
    for actual, expected in ways:
        torch.testing.assert_close(actual, list(expected), rtol=0, atol=tolerance)


def _rounds_alike(make, peer, exact, *, shapes=SHAPES, steps=5, dtype=torch.float32):
    """Assert that we are no further from a peer's own numbers than twice its rounding.

    ``exact`` is the same formula in float64: what the peer is off from it is its rounding.
    """
    starts, histories = _problem(shapes, steps, dtype)
    double = [x.double() for x in starts], [[g.double() for g in h] for h in histories]
    ways = _ours(make, starts, histories), _theirs(peer, starts, histories), _theirs(exact, *double)
    for ours, theirs, formula in zip(*ways, strict=True):
        assert _apart(ours, theirs) <= 2 * _apart(theirs, formula)
        # Which is rounding, five products deep, and not the distance of two methods.
        assert _apart(theirs, formula) <= 2.0**-4 * _apart(formula, starts)


@pytest.fixture(scope="session")
def randn():
    """``randn(shape, seed, dtype)``: the same numbers for a seed, rounded to the dtype."""
    return _randn


@pytest.fixture(scope="session")
def agrees():
    """``agrees(make, peer, ...)``: ``make(params)`` and the peer, from the same start."""
    return _agrees


@pytest.fixture(scope="session")
def rounds_alike():
    """``rounds_alike(make, peer, exact, ...)``: the same, in the peer's own precision."""
    return _rounds_alike
