"""Low-rank matrix completion, section 6.3 of the paper: two factors, non-convex, deterministic."""

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
from polargrad.problems import LowRankCompletion

DECAY = 0.95
SMOOTHING = 0.9
STEPS = 1000
MOMENTUM_STEPS = 200
QUICK_STEPS = 300
_QUICK_LEFT_OUT = ("muon-ns", "polargrad-polar-first-decay", "polargrad-momentum-first-decay")


class CompletionTask(Task):
    """The deterministic task of 6.3; X and Y are two parameters, each with its own step."""

    problem: LowRankCompletion

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return the errors on observed, unobserved and all entries, and the gradients' spectra."""
        gradients = self.problem.gradients(*unknowns)
        (x_condition, x_norm), (y_condition, y_norm) = (spectrum(G) for G in gradients)
        return {
            "observed_error": self.problem.observed_error(*unknowns),
            "unobserved_error": self.problem.unobserved_error(*unknowns),
            "objective": float(self.problem.objective(*unknowns)),
            "x_condition": x_condition,
            "y_condition": y_condition,
            "x_nuclear_norm": x_norm,
            "y_nuclear_norm": y_norm,
        }


def build(seed: int, era: str) -> Task:
    """Return the task of a seed; in the paper's time the residual was not masked."""
    problem, start = LowRankCompletion.published(seed, "paper" if era == "paper" else "reference")
    return CompletionTask(problem, start)


def _runs(era: str, oracle: str) -> tuple[Run, ...]:
    """The runs of low_rank_mat_comp.py and its momentum script (timlautk/polargrad)."""
    paper = era == "paper"
    muon = muon_options(oracle, steps=5 if paper else 2)
    table: tuple[tuple[str, str, str, str, float, bool, dict[str, Any]], ...] = (
        (
            "polargrad",
            "PolarGrad",
            "polargrad",
            MAIN,
            15.0 if paper else 50.0,
            True,
            polargrad_options(oracle),
        ),
        ("muon-ns", "Muon (Newton–Schulz)", "muon", MAIN, 0.25, False, MUON_NEWTON_SCHULZ),
        ("muon-qdwh", "Muon (QDWH)", "muon", MAIN, 0.25, True, muon),
        ("adam", "Adam", "adam", MAIN, 0.05, True, {}),
        ("alternating-gradient", "AltGD", "alternating-gradient", MAIN, 50.0, False, {}),
        (
            "polargrad-polar-first",
            "PolarGradM polar-first",
            "polargrad",
            MOMENTUM,
            15.0 if paper else 100.0,
            True,
            polargrad_options(oracle, 0.5, "polar-first"),
        ),
        (
            "polargrad-momentum-first",
            "PolarGradM momentum-first",
            "polargrad",
            MOMENTUM,
            7.5 if paper else 50.0,
            True,
            polargrad_options(oracle, 0.5),
        ),
    )
    return tuple(
        run
        for name, label, solver, group, lr, both, options in table
        for run in with_decay(
            Run(
                name=name,
                label=label,
                solver=solver,
                group=group,
                lr=lr,
                options=options,
                steps=MOMENTUM_STEPS if group == MOMENTUM else None,
            ),
            lr=lr if both else None,
            decay=DECAY,
        )
    )


_BASELINES = (
    Run(
        name="alternating-least-squares",
        label="alternating least squares",
        solver="alternating-least-squares",
        group=BASELINE,
        steps=100,
    ),
    Run(
        name="scaled-gradient",
        label="ScaledGD, 0.5",
        solver="scaled-gradient",
        group=BASELINE,
        lr=0.5,
        steps=300,
    ),
    Run(
        name="soft-impute",
        label="soft-impute, λ ↓",
        solver="soft-impute",
        group=BASELINE,
        options={"factor": 0.9},
        steps=300,
    ),
    Run(name="l-bfgs", label="L-BFGS", solver="l-bfgs", group=BASELINE, steps=300),
)


def completion(
    *, quick: bool = False, era: str = "reference", oracle: str = "published"
) -> Experiment:
    """Return the experiment of section 6.3.

    Args:
        quick: fewer runs, three tenths of the steps.
        era: ``"reference"`` for today's settings of the published code, or ``"paper"``, which did
            not mask the residual.
        oracle: what computes the polar factor in runs with QDWH: ``"published"``, ``"exact"``,
            ``"tolerance"``.
    """
    runs = (*_runs(era, oracle), *_BASELINES)
    if quick:
        runs = tuple(run for run in runs if run.name not in _QUICK_LEFT_OUT)
    return Experiment(
        name="completion",
        section="6.3",
        title="Low-rank matrix completion",
        formula="min ‖mask ∘ (X Yᵀ − M)‖² / |mask|, X 500 × 5, Y 250 × 5, 30 % observed",
        version="quick" if quick else "full",
        era=era,
        oracle=oracle,
        runs=runs,
        steps=QUICK_STEPS if quick else STEPS,
        every=10 if not quick else 5,
        metric="observed_error",
        metric_title="mean square error on observed entries",
        smoothing=SMOOTHING,
        figures=_figures(runs),
        build=build,
    )


def _figures(runs: Sequence[Run]) -> tuple[Figure, ...]:
    """The figures of the paper's two scripts, and PolarGrad among what a user would pick."""
    f = Panel(quantity="objective", title="f(X, Y)")
    panels = (
        f,
        Panel(quantity="x_condition", title="κ₂(∇f by X)", smooth=True),
        Panel(quantity="y_condition", title="κ₂(∇f by Y)", smooth=True),
    )
    nuclear = tuple(
        Panel(
            quantity=f"{x}_nuclear_norm",
            title=f"Nuclear norm of ∇f by {x.upper()}",
            smooth=True,
            logarithmic=False,
            until=MOMENTUM_STEPS,
        )
        for x in ("x", "y")
    )
    main = names_of(runs, MAIN)
    plain = ("polargrad", "polargrad-decay")
    second = tuple(name for name in main if name not in ("alternating-gradient", "adam"))
    momentum = names_of(runs, MOMENTUM, *plain)
    against = names_of(runs, BASELINE, *plain, "adam-decay")
    resolution = "Errors near 1e-14 are the resolution of float32."
    return (
        Figure(
            name="objective",
            runs=main,
            panels=panels,
            caption="Objective and condition numbers of the gradients (running averages). "
            + resolution,
        ),
        Figure(
            name="objective-2",
            runs=second,
            panels=panels,
            caption="Without AltGD and without the Adam whose rate is constant.",
        ),
        Figure(
            name="nuclear-norms",
            runs=main,
            panels=nuclear,
            caption="Nuclear norms of the gradients over the first 200 steps.",
        ),
        Figure(
            name="momentum",
            runs=momentum,
            panels=panels,
            caption=f"PolarGrad with and without momentum. {resolution}",
        ),
        Figure(
            name="baselines",
            runs=against,
            panels=(Panel(quantity="unobserved_error", title="Error on unobserved entries"),),
            caption="What counts in completion, the entries that were not seen: PolarGrad and Adam "
            "beside what needs no learning rate. Soft-impute decomposes the whole matrix a step.",
        ),
    )
