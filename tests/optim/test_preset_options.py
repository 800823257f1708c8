"""Options of the presets: what is refused, with the reason, and a few that act together."""

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad import optim

LR = 0.03
WRONG = [
    (lambda p: optim.OneSidedPolarGrad(p, LR, side="up"), "side must be 'left' or 'right'"),
    (lambda p: optim.HybridPolarGrad(p, LR, hybrid="rows"), "hybrid must be one of"),
    (lambda p: optim.Shampoo(p, LR, side="up"), "side must be None, 'left' or 'right'"),
    (lambda p: optim.SOAP(p, LR, betas=0.9), "betas must be two numbers"),
    (lambda p: pg.Muon(p, LR, exponent=2.0), "Muon has no option 'exponent'"),
    (lambda p: pg.MatrixOptimizer(p, LR, magnitude="unit", exponent=2.0), "no effect"),
    (lambda p: pg.MatrixOptimizer(p, LR, magnitude="unit", max_dual_norm=2.0), "no effect"),
    (lambda p: pg.PolarGrad(p, LR, order="polyak", momentum=0), "momentum must be above 0"),
    (lambda p: pg.PolarGrad(p, LR, order="polyak", nesterov=True), "nesterov=True has no meaning"),
    (
        lambda p: pg.PolarGrad(p, LR, bias_correction=True, momentum_form="heavy-ball"),
        "bias_correction=True is for momentum_form='ema'",
    ),
    (lambda p: pg.PolarGrad(p, LR, differentiable=True), "differentiable must be False"),
    (lambda p: pg.PolarGrad(p, LR, max_dual_norm=-1.0), "max_dual_norm must be at least 0"),
    (lambda p: pg.PolarGrad(p, LR, rounding="stochastic"), "has none"),
    (lambda p: pg.PolarGrad(p, LR, rounding="up"), "rounding must be one of"),
    (lambda p: pg.PolarGrad(p, LR, state_dtype="int8"), "state_dtype must be one of"),
    (lambda p: pg.PolarGrad(p, 0.0, shared_lr=True), "shared_lr=True needs lr above 0"),
    (lambda p: optim.SOAP(p, LR, momentum=0.9), r"SOAP decides momentum itself \(0.95\)"),
    (lambda p: optim.SSD(p, LR, rank=2, method="svd"), "SSD decides method itself"),
    (lambda p: optim.SignSGD(p, LR, method="svd"), "SignSGD has no option 'method'"),
    (lambda p: pg.Muon(p, LR, momenum=0.9), "Muon has no option 'momenum'"),
    (
        lambda p: pg.PolarGrad([("a", p[0]), ("a", nn.Parameter(torch.eye(2)))], LR),
        "the name a is given to two parameters",
    ),
    (
        lambda p: pg.PolarGrad(
            [{"params": [("a", p[0])]}, {"params": [("a", nn.Parameter(torch.eye(2)))]}], LR
        ),
        "the name a is given to two parameters",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make([nn.Parameter(torch.eye(3))])


def test_a_late_group_shares_the_lr_as_it_stands():
    optimizer = pg.PolarGrad([nn.Parameter(torch.eye(3))], 0.1, shared_lr=True, decay_per_step=0.1)
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(2))], "lr": 0.2})
    late = optimizer.param_groups[1]
    assert (late["lr"], late["lr_scale"], late["base_lr"]) == (0.05, 2.0, 0.1)


def test_a_zero_gradient_of_a_vector_is_no_division_by_an_eps_of_zero():
    """In float64: the square of 1e-20 is no normal number of float32."""
    v = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = pg.PolarGrad([nn.Parameter(torch.eye(2)), v], 0.1, vector_lr=0.5, vector_eps=0.0)
    v.grad = torch.tensor([0.0, 1e-20, -3.0], dtype=torch.float64)
    optimizer.step()
    wanted = torch.tensor([1.0, 0.5, 1.5], dtype=torch.float64)
    torch.testing.assert_close(v.detach(), wanted)
