"""Accumulated gradients: summed or averaged, told apart by one batch."""

import warnings

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim import accumulation_ratio


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x, y = torch.randn(12, 5), torch.randn(12, 3)
    optimizer = pg.PolarGrad(pg.param_groups(model), lr=0.1)

    def loss(rows=slice(None)):
        return (model(x[rows]) - y[rows]).square().mean()

    return optimizer, model, loss


PARTS = [slice(start, start + 3) for start in range(0, 12, 3)]


def test_averaged_is_one(problem):
    optimizer, _, loss = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ratio = accumulation_ratio(
            optimizer,
            lambda: loss().backward(),
            lambda: [(loss(part) / 4).backward() for part in PARTS],
        )
    assert abs(ratio - 1) < 1e-5


def test_summed_is_their_number(problem):
    optimizer, _, loss = problem
    with pytest.warns(UserWarning, match="is 4 times that of the whole batch"):
        ratio = accumulation_ratio(
            optimizer,
            lambda: loss().backward(),
            lambda: [loss(part).backward() for part in PARTS],
        )
    assert abs(ratio - 4) < 1e-4


def test_it_is_the_factor_of_the_step(problem):
    """What it warns of: PolarGrad's step from summed gradients is that many times as long."""
    _, model, loss = problem
    p = model[0].weight
    start, moved = p.detach().clone(), []
    for scale in (1, 4):
        optimizer = pg.PolarGrad([p], lr=1e-3, method="svd")
        optimizer.zero_grad()
        for part in PARTS:
            (scale * loss(part) / 4).backward()
        optimizer.step()
        moved.append((p.detach() - start).norm())
        with torch.no_grad():
            p.copy_(start)
    torch.testing.assert_close(moved[1], 4 * moved[0], rtol=1e-3, atol=0)


def test_gradients_parameters_and_state_are_left_alone(problem):
    optimizer, model, loss = problem
    loss().backward()
    before = [p.grad for p in model.parameters()]
    values = [g.clone() for g in before]
    half = slice(0, 6)
    accumulation_ratio(optimizer, lambda: loss(half).backward(), lambda: loss(half).backward())
    assert [id(p.grad) for p in model.parameters()] == [id(g) for g in before]
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), values, strict=True))
    assert not optimizer.state


@pytest.mark.parametrize("passes", [lambda: None, lambda: (_ for _ in ()).throw(RuntimeError("x"))])
def test_gradients_come_back_after_an_error(problem, passes):
    optimizer, model, loss = problem
    loss().backward()
    before = [id(p.grad) for p in model.parameters()]
    with pytest.raises((ValueError, RuntimeError)):
        accumulation_ratio(optimizer, passes, passes)
    assert [id(p.grad) for p in model.parameters()] == before
