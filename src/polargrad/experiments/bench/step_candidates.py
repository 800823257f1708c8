"""Whose steps are compared: ours, torch's, a loop written by hand, and published packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from polargrad.experiments.bench.peers import muon_quintic
from polargrad.experiments.bench.run import is_installed
from polargrad.experiments.bench.step_profile import MATRICES, mark
from polargrad.optim import MatrixOptimizer, Muon, PolarGrad
from polargrad.optim.vector import adamw_update

LR = 1e-6  # the same for all: parameters stay what they are, however many steps are timed
MOMENTUM = 0.95
DECAY = 0.01  # of AdamW; the matrix rules have none
TRAINING = 0.11  # training accuracy: singular values within 0.11 of 1

Step = Callable[[], object]
Build = Callable[[list[Parameter], list[Parameter]], Step]
MatrixBuild = Callable[[list[Parameter]], Step]


@dataclass(frozen=True)
class StepCandidate:
    """One way to step the parameters of a model.

    Args:
        key: its name on the command line.
        label: its name in tables and figures.
        origin: "ours" or "peer".
        scopes: "matrices", "vectors", "all": what it can step.
        build: makes a step of matrices and vectors, which have gradients.
        one_a_shape: on a CPU only one matrix of each shape is stepped, and counted as often as the
            model has it: for peers that compute in bfloat16, which most processors emulate.
        module: what must be installed; None for nothing.
    """

    key: str
    label: str
    origin: str
    scopes: tuple[str, ...]
    build: Build
    one_a_shape: bool = False
    module: str | None = None

    def missing(self) -> str | None:
        """Why it can't be measured here, or None if it can."""
        if self.module is None or is_installed(self.module):
            return None
        return f"{self.module} is not installed"


def polar_grad(params: list[dict[str, Any]]) -> MatrixOptimizer:
    """PolarGrad as it is by default: momentum, the planner's choice at training accuracy."""
    return PolarGrad(params, lr=LR, momentum=MOMENTUM, tol=TRAINING, vector_weight_decay=DECAY)


def polar_grad_found(params: list[dict[str, Any]]) -> MatrixOptimizer:
    """The same with step sizes that the run finds."""
    return PolarGrad(params, momentum=MOMENTUM, tol=TRAINING, vector_weight_decay=DECAY)


def muon_auto(params: list[dict[str, Any]]) -> MatrixOptimizer:
    """Muon with the planner's choice at training accuracy."""
    return Muon(
        params,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=0.0,
        method="auto",
        tol=TRAINING,
        vector_weight_decay=DECAY,
    )


def muon_five_steps(params: list[dict[str, Any]]) -> MatrixOptimizer:
    """Muon as it is by default: five steps of the quintic, in float32."""
    return Muon(params, lr=LR, momentum=MOMENTUM, weight_decay=0.0, vector_weight_decay=DECAY)


def optimizer_of(
    make: Callable[[list[dict[str, Any]]], MatrixOptimizer],
    matrices: list[Parameter],
    vectors: list[Parameter],
) -> MatrixOptimizer:
    """Return one of our optimizers of matrices and vectors.

    Without a matrix it gets one that has no gradient, and is therefore never stepped: our
    optimizers refuse to hold none.
    """
    held = matrices or [Parameter(torch.zeros(1, 1, device=vectors[0].device))]
    groups: list[dict[str, Any]] = [{"params": held, "rule": "matrix"}]
    if vectors:
        groups.append({"params": vectors, "rule": "adamw", "lr": LR})
    return make(groups)


def ours(make: Callable[[list[dict[str, Any]]], MatrixOptimizer]) -> Build:
    """A step of one of our optimizers."""
    return lambda matrices, vectors: optimizer_of(make, matrices, vectors).step


def adamw_rule(matrices: list[Parameter], vectors: list[Parameter]) -> Step:
    """Our AdamW alone: the rule as a step calls it, without the check of the gradients."""
    optimizer = optimizer_of(polar_grad, matrices, vectors)
    group = optimizer.param_groups[-1]

    @torch.no_grad()
    def step() -> None:
        with mark("adamw"):
            adamw_update(group, group["params"], optimizer.state, None)

    return step


def torch_adamw(foreach: bool | None) -> Build:
    """A step of torch.optim.AdamW with everything that it is given."""

    def build(matrices: list[Parameter], vectors: list[Parameter]) -> Step:
        params = [*matrices, *vectors]
        optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, foreach=foreach)

        def step() -> None:
            with mark("adamw"):
                optimizer.step()

        return step

    return build


def beside_adamw(build: MatrixBuild) -> Build:
    """A matrix rule of others, with torch's foreach AdamW for the vectors."""

    def both(matrices: list[Parameter], vectors: list[Parameter]) -> Step:
        matrix_step = build(matrices) if matrices else None
        vector_step = torch_adamw(True)([], vectors) if vectors else None

        def step() -> None:
            if matrix_step is not None:
                with mark(MATRICES):
                    matrix_step()
            if vector_step is not None:
                vector_step()

        return step

    return both


@dataclass
class HandLoop:
    r"""Muon as one would write it by hand: a loop over matrices, in their own precision, float32.

    .. math:: M \leftarrow \mu M + (1-\mu) G, \qquad X \leftarrow X - \gamma\,\mathrm{NS}_5(M)

    with every product and sum of the quintic in one call, and neither Nesterov nor decay.

    Example:
        >>> X = Parameter(torch.eye(3))
        >>> X.grad = torch.eye(3)
        >>> HandLoop([X])()
        >>> bool((X.detach().diag() < 1).all())
        True
    """

    params: list[Parameter]
    momenta: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.momenta = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def __call__(self) -> None:
        """Step all matrices."""
        for p, momentum in zip(self.params, self.momenta, strict=True):
            if p.grad is not None:
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                p.sub_(muon_quintic(momentum, dtype=p.dtype), alpha=LR)


def torch_muon(params: list[Parameter]) -> Step:
    """torch.optim.Muon, which computes in bfloat16."""
    return torch.optim.Muon(params, lr=LR, momentum=MOMENTUM, weight_decay=0.0).step


def keller_jordan(params: list[Parameter]) -> Step:
    """Muon of its inventor's package; another package on the index has the same module name."""
    kind = getattr(importlib.import_module("muon"), "SingleDeviceMuon", None)
    if kind is None:
        raise ImportError("the module muon that is installed is not that of muon-optimizer")
    step: Step = kind(params, lr=LR, momentum=MOMENTUM, weight_decay=0.0).step
    return step


def dion_muon(params: list[Parameter]) -> Step:
    """Muon of microsoft/dion."""
    kind = importlib.import_module("dion").Muon
    step: Step = kind(params, lr=LR, mu=MOMENTUM, weight_decay=0.0, nesterov=True).step
    return step


def pytorch_optimizer_muon(params: list[Parameter]) -> Step:
    """Muon of pytorch_optimizer, which wants to be told that matrices are matrices."""
    kind = importlib.import_module("pytorch_optimizer").Muon
    group = {"params": params, "use_muon": True}
    step: Step = kind([group], lr=LR, momentum=MOMENTUM, weight_decay=0.0).step
    return step


def emerging_muon(params: list[Parameter]) -> Step:
    """Muon of NVIDIA's Emerging-Optimizers, in float32 throughout."""
    kind = importlib.import_module("emerging_optimizers.orthogonalized_optimizers").Muon
    options = {"nesterov": True, "fp32_matmul_prec": "highest"}
    step: Step = kind(params, lr=LR, momentum=MOMENTUM, weight_decay=0.0, **options).step
    return step


def _peer(key: str, label: str, build: MatrixBuild, **options: Any) -> StepCandidate:
    scopes = ("matrices", "all")
    return StepCandidate(key, label, "peer", scopes, beside_adamw(build), **options)


HAND_LOOP = _peer("hand-loop", "quintic by hand, float32", HandLoop)
TORCH_MUON = _peer("torch-muon", "torch.optim.Muon", torch_muon, one_a_shape=True)
ADAMW_FOREACH = StepCandidate(
    "torch-adamw-foreach",
    "torch.optim.AdamW, foreach",
    "peer",
    ("vectors", "all"),
    torch_adamw(True),
)
# What the times of a scope are divided by; the loop is beside torch's foreach AdamW in "all".
REFERENCES = {"matrices": HAND_LOOP, "vectors": ADAMW_FOREACH, "all": HAND_LOOP}

CANDIDATES: dict[str, StepCandidate] = {
    candidate.key: candidate
    for candidate in (
        StepCandidate("polargrad", "PolarGrad", "ours", ("matrices", "all"), ours(polar_grad)),
        StepCandidate(
            "polargrad-found",
            "PolarGrad, lr found",
            "ours",
            ("matrices", "all"),
            ours(polar_grad_found),
        ),
        StepCandidate("muon", "Muon, auto at 0.11", "ours", ("matrices", "all"), ours(muon_auto)),
        StepCandidate(
            "muon-quintic", "Muon, quintic", "ours", ("matrices", "all"), ours(muon_five_steps)
        ),
        StepCandidate(
            "adamw", "AdamW of ours, with the check", "ours", ("vectors",), ours(polar_grad)
        ),
        StepCandidate("adamw-rule", "AdamW of ours, rule alone", "ours", ("vectors",), adamw_rule),
        HAND_LOOP,
        TORCH_MUON,
        ADAMW_FOREACH,
        StepCandidate(
            "torch-adamw",
            "torch.optim.AdamW, default",
            "peer",
            ("vectors", "all"),
            torch_adamw(None),
        ),
        _peer("muon-optimizer", "muon-optimizer", keller_jordan, one_a_shape=True, module="muon"),
        _peer("dion", "dion's Muon", dion_muon, one_a_shape=True, module="dion"),
        _peer(
            "pytorch-optimizer",
            "pytorch_optimizer's Muon",
            pytorch_optimizer_muon,
            one_a_shape=True,
            module="pytorch_optimizer",
        ),
        _peer(
            "emerging-optimizers",
            "Emerging-Optimizers' Muon",
            emerging_muon,
            module="emerging_optimizers",
        ),
    )
}
# Distributions whose versions are kept with the results.
PACKAGES = ("muon-optimizer", "dion", "pytorch-optimizer", "emerging-optimizers")


def chosen(keys: tuple[str, ...], scope: str) -> list[StepCandidate]:
    """Return the candidates of a scope, all or those with these keys, and always its reference."""
    reference = REFERENCES[scope]
    return [
        candidate
        for key, candidate in CANDIDATES.items()
        if scope in candidate.scopes and (not keys or key in keys or candidate is reference)
    ]
