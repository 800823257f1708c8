"""Our optimizers described as torch describes its own for its tests, and a problem to run them on.

The form is that of ``torch.testing._internal.common_optimizers``: for each optimizer its class and
the inputs that it is run with.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import polargrad as pg


@dataclass(frozen=True)
class OptimizerInput:
    """Options of one constructor call."""

    desc: str
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerInfo:
    """One optimizer: its class, what every call of it needs here, and the inputs it is run with."""

    cls: type[pg.MatrixOptimizer]
    base: dict[str, Any]
    inputs: tuple[OptimizerInput, ...]

    def make(self, params, **kwargs):
        return self.cls(params, **{**self.base, **kwargs})


COMMON = (
    OptimizerInput("default"),
    OptimizerInput("another lr", {"lr": 0.005}),
    OptimizerInput("weight decay", {"weight_decay": 0.2, "vector_weight_decay": 0.2}),
)
MOMENTUM = (
    OptimizerInput("no momentum", {"momentum": 0.0}),
    OptimizerInput("nesterov", {"momentum": 0.8, "nesterov": True}),
    OptimizerInput("wide momentum", {"momentum": 0.8, "state_dtype": "float64"}),
)
BASE = {"lr": 0.01, "vector_lr": 0.01}
INFOS = (
    OptimizerInfo(
        pg.PolarGrad,
        BASE,
        (
            *COMMON,
            *MOMENTUM,
            OptimizerInput("polar-first", {"order": "polar-first", "method": "qdwh"}),
            OptimizerInput("polyak", {"order": "polyak", "momentum": 0.5}),
            OptimizerInput("heavy ball", {"momentum_form": "heavy-ball", "momentum": 0.5}),
            OptimizerInput("bias correction", {"bias_correction": True}),
            OptimizerInput("clipped", {"max_dual_norm": 1.0}),
            OptimizerInput("decay per step", {"decay_per_step": 0.01}),
            OptimizerInput("converged", {"tol": None}),
            OptimizerInput("bfloat16 products", {"compute_dtype": "bfloat16"}),
            OptimizerInput("capturable", {"capturable": True}),
            OptimizerInput("one lr for all", {"shared_lr": True}),
            OptimizerInput("in rounds", {"approximation": {"name": "rounds", "every": 2}}),
            OptimizerInput("sketched", {"approximation": {"name": "sketch", "rank": 2, "seed": 0}}),
        ),
    ),
    OptimizerInfo(
        pg.Muon,
        BASE,
        (
            *COMMON,
            *MOMENTUM,
            OptimizerInput("other steps", {"ns_steps": 6}),
            OptimizerInput("other coefficients", {"ns_coefficients": (3.4, -4.7, 2.0)}),
            OptimizerInput("matched to AdamW", {"adjust_lr_fn": "match_rms_adamw"}),
        ),
    ),
    OptimizerInfo(
        pg.MatrixOptimizer,
        {**BASE, "magnitude": "unit", "method": "svd"},
        (*COMMON, *MOMENTUM, OptimizerInput("eps of AdamW", {"vector_eps": 1e-3})),
    ),
    OptimizerInfo(pg.PolarMuon, BASE, COMMON),
    OptimizerInfo(pg.optim.MatrixSignDescent, BASE, COMMON),
    OptimizerInfo(pg.optim.SSD, {**BASE, "rank": 3}, COMMON),
    OptimizerInfo(
        pg.optim.OneSidedPolarGrad,
        BASE,
        (*COMMON, OptimizerInput("left, damped", {"side": "left", "damping": 0.1})),
    ),
    OptimizerInfo(
        pg.optim.HybridPolarGrad,
        BASE,
        (*COMMON, OptimizerInput("polar, then rows", {"hybrid": "polar_then_row"})),
    ),
    OptimizerInfo(pg.optim.GradientDescent, BASE, (*COMMON, *MOMENTUM)),
    OptimizerInfo(pg.optim.SignSGD, BASE, COMMON),
    OptimizerInfo(pg.optim.RowNorm, BASE, COMMON),
    OptimizerInfo(pg.optim.ColumnNorm, BASE, COMMON),
    OptimizerInfo(
        pg.optim.Shampoo,
        {**BASE, "damping": 1e-6},
        (*COMMON, OptimizerInput("averaged", {"beta2": 0.9})),
    ),
    OptimizerInfo(pg.optim.SOAP, BASE, (*COMMON, OptimizerInput("refreshed", {"refresh": 2}))),
)
CASES = [(info, given) for info in INFOS for given in info.inputs]
infos = pytest.mark.parametrize("info", INFOS, ids=lambda i: i.cls.__name__)
cases = pytest.mark.parametrize(
    ("info", "given"), CASES, ids=[f"{i.cls.__name__}, {g.desc}" for i, g in CASES]
)


class Problem:
    """A weight and a bias with a loss of squares and a gradient of full rank.

    Both may be strided in memory, between entries that are nobody's business.
    """

    def __init__(self, contiguous=True, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        memory = torch.randn(10, 5, 2, generator=generator, dtype=torch.float64).to(dtype)
        bias = torch.randn(10, 2, generator=generator, dtype=torch.float64).to(dtype)
        self.between = [memory[..., 1], bias[..., 1]]
        held = [memory[..., 0], bias[..., 0]]
        self.weight, self.bias = (nn.Parameter(x.contiguous() if contiguous else x) for x in held)
        self.input = torch.randn(5, 8, generator=generator, dtype=torch.float64).to(dtype)
        self.params = [self.weight, self.bias]
        assert {p.is_contiguous() for p in self.params} == {contiguous}

    def loss(self):
        return (self.weight @ self.input + self.bias[:, None]).square().mean()

    def run(self, optimizer, steps=5, scheduler=None):
        """Losses before each step, closure and all."""

        def closure():
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        losses = []
        for _ in range(steps):
            losses.append(optimizer.step(closure).item())
            if scheduler is not None:
                scheduler.step()
        return losses

    def values(self):
        return [p.detach().clone() for p in self.params]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
