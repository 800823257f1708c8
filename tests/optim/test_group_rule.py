"""The rule read from a group predicts what the optimizer of that group does."""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim.group_rule import rule_of
from polargrad.optim.update_size import Rule, update_rms

SHAPE = (40, 64)
MAKERS = {
    "PolarGrad": lambda p: pg.PolarGrad(p, lr=0.1, momentum=0.5, tol=None),
    "heavy ball": lambda p: pg.PolarGrad(
        p, lr=0.1, momentum=0.5, tol=None, momentum_form="heavy-ball", nesterov=True
    ),
    "PolarMuon": lambda p: pg.optim.PolarMuon(p, lr=0.1, momentum=0.5, tol=None),
    "Muon": lambda p: pg.Muon(p, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    "MatrixSignDescent": lambda p: pg.optim.MatrixSignDescent(p, lr=0.1, tol=None),
    "GradientDescent": lambda p: pg.optim.GradientDescent(p, lr=0.1, momentum=0.5),
    "SignSGD": lambda p: pg.optim.SignSGD(p, lr=0.1),
    "RowNorm": lambda p: pg.optim.RowNorm(p, lr=0.1),
    "ColumnNorm": lambda p: pg.optim.ColumnNorm(p, lr=0.1),
    "torch.optim.Muon": lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.0),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_the_rule_of_a_group_has_the_size_of_its_updates(make):
    p = nn.Parameter(torch.zeros(SHAPE))
    optimizer = make([p])
    squares = []
    for step in range(60):
        before = p.detach().clone()
        p.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        squares.append((p.detach() - before).double().square().mean().item())
    actual = math.sqrt(sum(squares[20:]) / 40)
    rule = rule_of(optimizer.param_groups[0], SHAPE)
    assert math.isclose(update_rms(rule, SHAPE, gradient_rms=1.0), actual, rel_tol=1e-2)


def test_a_vector_has_the_rule_of_adamw():
    params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]
    optimizer = pg.PolarGrad(params, lr=0.1, vector_lr=1e-3, vector_betas=(0.8, 0.9))
    expected = Rule("adamw", lr=1e-3, momentum=0.8, weight_decay=0.0)
    assert rule_of(optimizer.param_groups[1], (1, 3)) == expected
    plain = torch.optim.AdamW(params, lr=1e-3, betas=(0.8, 0.9), weight_decay=0.0)
    assert rule_of(plain.param_groups[0], (3, 3)) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda p: pg.optim.Shampoo(p, lr=0.1),
        lambda p: pg.optim.SSD(p, lr=0.1, rank=2),
        lambda p: pg.PolarGrad(p, lr=0.1, order="polyak"),
        lambda p: pg.PolarGrad(p, lr=0.1, max_dual_norm=1.0),
        lambda p: pg.optim.OneSidedPolarGrad(p, lr=0.1, damping=1e-3),
        lambda p: pg.optim.OneSidedPolarGrad(p, lr=0.1, exponent=0.5),
        lambda p: pg.optim.RowNorm(p, lr=0.1, scaled=True),
        lambda p: pg.PolarGrad(p, lr=0.1, method="newton_schulz"),
    ],
)
def test_no_prediction_where_none_is_known(make):
    optimizer = make([nn.Parameter(torch.eye(4))])
    assert rule_of(optimizer.param_groups[0], (4, 4)) is None
