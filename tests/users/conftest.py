"""What the tests of the peers' defects share: seeded matrices, a run of steps, a file."""

import io

import pytest
import torch
from torch import nn


def _randn(shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _run(make, starts, rows):
    """Parameters and optimizer after one step for each row of gradients (None leaves one out)."""
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = make(params)
    for row in rows:
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()
    return params, optimizer


def _through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture
def randn():
    """A seeded Gaussian tensor: shape, seed, dtype."""
    return _randn


@pytest.fixture
def run():
    """A function of (make, starts, rows of gradients) that takes one step a row."""
    return _run


@pytest.fixture
def through_a_file():
    """Save and load with ``weights_only=True``."""
    return _through_a_file
