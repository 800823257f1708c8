"""Matrix logistic regression, section 6.2 of the paper: convex, stochastic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from polargrad.experiments.experiment import (
    BASELINE,
    MAIN,
    MOMENTUM,
    Experiment,
    Figure,
    Panel,
    Run,
    names_of,
    with_decay,
)
from polargrad.experiments.oracles import MUON_NEWTON_SCHULZ, muon_options, polargrad_options
from polargrad.experiments.task import Task, spectrum
from polargrad.problems import MatrixLogisticRegression, RowBatches
from polargrad.problems.logistic import Labels

DECAY = 0.95
SMOOTHING = 0.8
STEPS = 1500
QUICK_STEPS = 500
# As many rows as 1500 batches of 1000 show, where there are 10,000.
FULL_BATCH_STEPS = 150
_QUICK = (
    "polargrad",
    "polargrad-decay",
    "polargrad-momentum-first",
    "muon-qdwh",
    "muon-qdwh-decay",
    "adam",
    "adam-decay",
    "l-bfgs",
)


class LogisticTask(Task):
    """The task of 6.2: each step sees 1000 rows, drawn with replacement."""

    problem: MatrixLogisticRegression
    seen: MatrixLogisticRegression

    def __init__(
        self,
        problem: MatrixLogisticRegression,
        start: Sequence[Tensor],
        batches: RowBatches | None,
    ) -> None:
        super().__init__(problem, start)
        self.batches = batches
        self._before: dict[str, Any] = {}

    def draw(self) -> MatrixLogisticRegression:
        """Return the rows of the next step, or all."""
        if self.batches is None:
            return self.problem
        self._before = self.batches.state_dict()
        return self.problem.batch(next(self.batches))

    def without_batches(self) -> LogisticTask:
        """Return the task on all rows."""
        return LogisticTask(self.problem, self.start, None)

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return the full loss per entry, the batch's loss, and the spectrum of its gradient."""
        (X,) = unknowns
        condition, nuclear_norm = spectrum(self.seen.gradient(X))
        return {
            "loss_per_entry": self.problem.loss_per_entry(X),
            "batch_loss": float(self.seen.objective(X)),
            "gradient_condition": condition,
            "nuclear_norm": nuclear_norm,
        }

    def constants(self) -> dict[str, float]:
        """Return L and the optimum of all data, per entry, by a truncated Newton method."""
        return {
            "smoothness": self.problem.smoothness,
            "optimum_per_entry": self.problem.optimum / self.problem.C.numel(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator before this step's rows were drawn."""
        return self._before

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to before those rows were drawn."""
        if self.batches is not None:
            self.batches.load_state_dict(state)


def build(seed: int, era: str) -> Task:
    """Return the task of a seed: labels ±1, or {0, 1} in the paper's time."""
    labels: Labels = "signs" if era == "reference" else "zero-one"
    problem, start = MatrixLogisticRegression.published(seed, labels=labels)
    return LogisticTask(problem, (start,), MatrixLogisticRegression.published_batches(seed))


def _runs(era: str, oracle: str) -> tuple[Run, ...]:
    """The runs of mat_log_reg.py and mat_log_reg_mom.py (timlautk/polargrad, 79f3c6f and v1)."""
    paper = era == "paper"
    polargrad = polargrad_options(oracle)
    muon = muon_options(oracle, steps=5 if paper else 2)
    momentum_lr = 5e-7 if paper else 2.5e-7
    table: tuple[tuple[str, str, str, str, float, float | None, dict[str, Any]], ...] = (
        (
            "polargrad",
            "PolarSGD",
            "polargrad",
            MAIN,
            2.5e-7 if paper else 1.5e-7,
            5e-7 if paper else 2.5e-7,
            polargrad,
        ),
        (
            "muon-ns",
            "Muon (Newton–Schulz)",
            "muon",
            MAIN,
            7.5e-2 if paper else 1e-1,
            None,
            MUON_NEWTON_SCHULZ,
        ),
        (
            "muon-qdwh",
            "Muon (QDWH)",
            "muon",
            MAIN,
            7.5e-2 if paper else 1e-1,
            1.5e-1 if paper else 2e-1,
            muon,
        ),
        ("adam", "Adam", "adam", MAIN, 5e-3, 1e-2, {}),
        (
            "polargrad-polar-first",
            "PolarSGDM polar-first",
            "polargrad",
            MOMENTUM,
            momentum_lr,
            momentum_lr,
            polargrad_options(oracle, 0.95, "polar-first"),
        ),
        (
            "polargrad-momentum-first",
            "PolarSGDM momentum-first",
            "polargrad",
            MOMENTUM,
            momentum_lr,
            momentum_lr,
            polargrad_options(oracle, 0.9),
        ),
    )
    return tuple(
        run
        for name, label, solver, group, lr, falling, options in table
        for run in with_decay(
            Run(name=name, label=label, solver=solver, group=group, lr=lr, options=options),
            lr=falling,
            decay=DECAY,
        )
    )


_BASELINES = tuple(
    Run(
        name=name,
        label=f"{label} (all rows)",
        solver=name,
        group=BASELINE,
        steps=FULL_BATCH_STEPS,
        full_batch=True,
    )
    for name, label in (
        ("gradient-descent", "gradient descent, 2/(L+μ)"),
        ("nesterov", "Nesterov, 1/L"),
        ("l-bfgs", "L-BFGS"),
    )
)


def logistic(
    *, quick: bool = False, era: str = "reference", oracle: str = "published"
) -> Experiment:
    """Return the experiment of section 6.2.

    Args:
        quick: fewer runs, a third of the steps.
        era: ``"reference"`` for today's settings and labels of the published code, or ``"paper"``.
        oracle: what computes the polar factor in runs with QDWH: ``"published"``, ``"exact"``,
            ``"tolerance"``.
    """
    runs = (*_runs(era, oracle), *_BASELINES)
    if quick:
        runs = tuple(run for run in runs if run.name in _QUICK)
    return Experiment(
        name="logistic",
        section="6.2",
        title="Matrix logistic regression",
        formula="min Σ softplus(−C ∘ (A X B)), X 1000 × 100, A 10000 × 1000, B 100 × 400, "
        "1000 rows a step",
        version="quick" if quick else "full",
        era=era,
        oracle=oracle,
        runs=runs,
        steps=QUICK_STEPS if quick else STEPS,
        every=25,
        also=(10,),
        metric="loss_per_entry",
        metric_title="loss per entry, all data",
        smoothing=SMOOTHING,
        figures=_figures(runs),
        build=build,
    )


def _figures(runs: Sequence[Run]) -> tuple[Figure, ...]:
    """The figures of the paper's two scripts, and the full loss with the baselines."""
    panels = (
        Panel(quantity="batch_loss", title="f(X) on the batch"),
        Panel(quantity="gradient_condition", title="κ₂ of the batch's gradient", smooth=True),
        Panel(quantity="nuclear_norm", title="Nuclear norm of the batch's gradient", smooth=True),
    )
    main = names_of(runs, MAIN)
    few = ("polargrad", "polargrad-decay", "muon-qdwh-decay")
    momentum = names_of(runs, MOMENTUM, *few)
    against = names_of(runs, BASELINE, *few, "adam-decay")
    return (
        Figure(
            name="loss",
            runs=main,
            panels=panels,
            caption="Loss of the batch, and condition number and nuclear norm of its gradient "
            "(running averages).",
        ),
        Figure(
            name="momentum",
            runs=momentum,
            panels=panels,
            caption="PolarSGD with and without momentum.",
        ),
        Figure(
            name="full-loss",
            runs=against,
            panels=(Panel(quantity="loss_per_entry", title="Loss per entry, all data"),),
            caption="Full loss. A step of the deterministic methods looks at all 10,000 rows, ten "
            "times as many as the others'.",
        ),
    )
