"""What the insights measure: families of optimizers, learning rates, warmup, sampled steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from polargrad.language import Preset
from polargrad.language.presets import TINY

# The best for embeddings, head and vectors with each of the three rules (benchmarks/tiny_sweep.py),
# so that what differs is the rule of the hidden matrices alone.
VECTOR_LR = 3e-2
# Of AdamW everywhere, as in the paper's pre-training runs.
BETA2 = 0.95


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way to optimize the model, at several learning rates.

    Args:
        name: a word for file names.
        label: what figures and tables call it.
        optimizer: a key of :data:`polargrad.language.DEFAULTS`.
        lrs: learning rates of the hidden matrices, ascending, in steps of about 3.
        vector_lr: AdamW's learning rate for embeddings, head and vectors; None for ``lr``.
    """

    name: str
    label: str
    optimizer: str
    lrs: tuple[float, ...]
    vector_lr: float | None = VECTOR_LR


ADAMW = Family(name="adamw", label="AdamW", optimizer="adamw", lrs=(1e-3, 3e-3, 1e-2))
ONE_RATE = Family(
    name="adamw-one-rate",
    label="AdamW, one rate",
    optimizer="adamw",
    lrs=(1e-3, 3e-3, 1e-2),
    vector_lr=None,
)
MUON = Family(name="muon", label="Muon", optimizer="muon", lrs=(1e-2, 3e-2, 1e-1))
POLARGRAD = Family(
    name="polargrad", label="PolarGrad", optimizer="polargrad", lrs=(6e-2, 2e-1, 6e-1)
)
FAMILIES = {family.name: family for family in (ADAMW, ONE_RATE, MUON, POLARGRAD)}
# Same vectors' rule, same rate there: only these may be compared as rules of hidden matrices.
SAME_VECTORS = (ADAMW.name, MUON.name, POLARGRAD.name)
ADAM_FAMILIES = (ADAMW.name, ONE_RATE.name)


@dataclass(frozen=True, kw_only=True)
class InsightRun:
    """One training run.

    Without warmup the learning rate of the hidden matrices is its full size from the first step;
    that of embeddings, head and vectors keeps its warmup where it is another rate, so that what is
    tested is the rule of the matrices.

    Args:
        family: key of :data:`FAMILIES`.
        lr: learning rate of the hidden matrices.
        warmup: whether it rises linearly over the first steps.
        curvature: whether the Hessians of single layers are looked at on the way.
    """

    family: str
    lr: float
    warmup: bool = True
    curvature: bool = False

    @property
    def name(self) -> str:
        """A word for file names."""
        return f"{self.family}-lr_{self.lr:g}-{'warmup' if self.warmup else 'no_warmup'}"

    @property
    def label(self) -> str:
        """What progress and tables call it."""
        warmup = "" if self.warmup else ", no warmup"
        return f"{FAMILIES[self.family].label}, lr {self.lr:g}{warmup}"


@dataclass(frozen=True, kw_only=True)
class InsightsProtocol:
    """All runs of one seed, how long they are, and what is looked at.

    Args:
        version: ``"full"`` or the name of a shorter version.
        runs: of every seed.
        steps: updates of a run.
        dense: every update before this step is looked at.
        every: after that, one update in so many.
        curvature_at: updates done when the Hessians are looked at.
        curvature_windows: windows of the batch that Hessians and gradients beside them belong to.
        curvature_stride: one hidden matrix in so many is looked at; with seven in a block, all
            kinds of layers are met for any stride that is not a multiple of 7.
        products: Hessian-vector products of Lanczos' method, a layer.
        probes: further ones for the Frobenius norm of the Hessian.
        preset: the model and its batches.
    """

    version: str
    runs: tuple[InsightRun, ...]
    steps: int
    dense: int
    every: int
    curvature_at: tuple[int, ...]
    curvature_windows: int
    curvature_stride: int
    products: int
    probes: int
    preset: Preset

    def samples(self, step: int) -> bool:
        """Return whether the update after ``step`` others is looked at."""
        return step < self.dense or step % self.every == 0

    def as_data(self) -> dict[str, Any]:
        """Return the protocol as plain data, as ``settings.json`` keeps it."""
        return {**asdict(self), "experiment": "insights", "vector_lr": VECTOR_LR, "beta2": BETA2}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> InsightsProtocol:
        """Return the protocol that :meth:`as_data` wrote; further keys are ignored."""
        known = {key: data[key] for key in cls.__dataclass_fields__}
        known["runs"] = tuple(InsightRun(**run) for run in known["runs"])
        known["curvature_at"] = tuple(known["curvature_at"])
        return cls(**{**known, "preset": Preset(**known["preset"])})


def all_runs(families: tuple[Family, ...], *, middle_alone: bool = False) -> tuple[InsightRun, ...]:
    """Return the runs of some families: every learning rate, with and without warmup.

    Hessians are looked at in the runs with warmup at the middle rate of each family whose vectors
    have a rate of their own.

    Args:
        families: which.
        middle_alone: take the middle learning rate of each family alone.
    """
    return tuple(
        InsightRun(
            family=family.name,
            lr=lr,
            warmup=warmup,
            curvature=warmup and lr == _middle(family) and family.name in SAME_VECTORS,
        )
        for family in families
        for lr in ((_middle(family),) if middle_alone else family.lrs)
        for warmup in (True, False)
    )


def _middle(family: Family) -> float:
    return family.lrs[len(family.lrs) // 2]


FULL = InsightsProtocol(
    version="full",
    runs=all_runs((ADAMW, ONE_RATE, MUON, POLARGRAD)),
    steps=120,
    dense=12,
    every=4,
    curvature_at=(0, 40, 120),
    curvature_windows=4,
    curvature_stride=2,
    products=14,
    probes=8,
    preset=TINY,
)
QUICK = InsightsProtocol(
    version="quick",
    runs=all_runs((ADAMW, MUON, POLARGRAD), middle_alone=True),
    steps=32,
    dense=6,
    every=4,
    curvature_at=(32,),
    curvature_windows=2,
    curvature_stride=5,
    products=10,
    probes=4,
    preset=TINY,
)
