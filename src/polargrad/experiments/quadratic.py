"""Matrix quadratic regression, section 6.1 of the paper: strongly convex, deterministic."""

from __future__ import annotations

from collections.abc import Sequence

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
from polargrad.experiments.oracles import (
    MUON_NEWTON_SCHULZ,
    MUON_ZOLOTAREV,
    POLARGRAD_ZOLOTAREV,
    muon_options,
    polargrad_options,
)
from polargrad.experiments.task import Task, spectrum
from polargrad.problems import MatrixQuadraticRegression

DECAY = 0.99
SMOOTHING = 0.8
STEPS = 4000
QUICK_STEPS = 1000
_QUICK = (
    "polargrad",
    "polargrad-decay",
    "polargrad-momentum-first",
    "muon-qdwh",
    "muon-qdwh-decay",
    "adam",
    "adam-decay",
    "gradient-descent",
    "conjugate-gradients",
    "direct",
)


class QuadraticTask(Task):
    """The deterministic task of 6.1."""

    problem: MatrixQuadraticRegression

    def measure(self, unknowns: Sequence[Tensor]) -> dict[str, float]:
        """Return gap, condition numbers of residual and gradient, and the nuclear norm.

        The gap is evaluated in float64; residual and gradient are those of the data's dtype.
        """
        (X,) = unknowns
        residual_condition, _ = spectrum(self.problem.residual(X))
        gradient_condition, nuclear_norm = spectrum(self.problem.gradient(X))
        return {
            "gap": self.problem.gap(X),
            "residual_condition": residual_condition,
            "gradient_condition": gradient_condition,
            "nuclear_norm": nuclear_norm,
        }

    def constants(self) -> dict[str, float]:
        """Return L, μ, κ_H and f*."""
        return {
            "smoothness": self.problem.smoothness,
            "strong_convexity": self.problem.strong_convexity,
            "condition_number": self.problem.condition_number,
            "optimum": self.problem.optimum,
        }


def build(seed: int, era: str) -> Task:
    """Return the task of a seed; it is the same in both eras."""
    problem, start = MatrixQuadraticRegression.published(seed)
    return QuadraticTask(problem, (start,))


def _main(era: str, oracle: str) -> tuple[Run, ...]:
    """The runs of mat_quad_reg.py (timlautk/polargrad at 79f3c6f), with its learning rates.

    Adam has torch's defaults. In the paper's time Muon ran five steps of QDWH, the later ones with
    a wrong triangular solve; here they are right.
    """
    polargrad = polargrad_options(oracle)
    muon = muon_options(oracle, steps=5 if era == "paper" else 2)
    return (
        Run(name="polargrad", label="PolarGrad", solver="polargrad", lr=4e-8, options=polargrad),
        Run(
            name="polargrad-zolotarev",
            label="PolarGrad (ZOLO-PD)",
            solver="polargrad",
            lr=3e-8,
            options=POLARGRAD_ZOLOTAREV,
        ),
        Run(
            name="polargrad-decay",
            label="PolarGrad, lr ↓",
            solver="polargrad",
            lr=4.75e-8,
            options=polargrad,
            decay=DECAY,
        ),
        Run(
            name="muon-ns",
            label="Muon (Newton–Schulz)",
            solver="muon",
            lr=0.1,
            options=MUON_NEWTON_SCHULZ,
        ),
        Run(name="muon-qdwh", label="Muon (QDWH)", solver="muon", lr=0.1, options=muon),
        Run(
            name="muon-qdwh-decay",
            label="Muon (QDWH), lr ↓",
            solver="muon",
            lr=0.05,
            options=muon,
            decay=DECAY,
        ),
        Run(
            name="muon-zolotarev",
            label="Muon (ZOLO-PD)",
            solver="muon",
            lr=0.1,
            options=MUON_ZOLOTAREV,
        ),
        Run(name="adam", label="Adam", solver="adam", lr=0.05),
        Run(name="adam-decay", label="Adam, lr ↓", solver="adam", lr=0.05, decay=DECAY),
        Run(name="newton", label="Newton", solver="newton", lr=0.25),
    )


def _momentum(oracle: str) -> tuple[Run, ...]:
    """The runs that mat_quad_reg_mom.py adds; its Muon runs five steps of QDWH in both eras."""
    polar_first = polargrad_options(oracle, 0.95, "polar-first")
    momentum_first = polargrad_options(oracle, 0.9)
    muon = muon_options(oracle, steps=5)
    table = (
        ("polargrad-polar-first", "PolarGradM polar-first", "polargrad", polar_first, 4e-7, 5e-7),
        (
            "polargrad-momentum-first",
            "PolarGradM momentum-first",
            "polargrad",
            momentum_first,
            2e-7,
            2.5e-7,
        ),
        ("muon-five", "Muon (5-step QDWH)", "muon", muon, 1e-1, 5e-2),
    )
    return tuple(
        run
        for name, label, solver, options, lr, falling in table
        for run in with_decay(
            Run(name=name, label=label, solver=solver, group=MOMENTUM, lr=lr, options=options),
            lr=falling,
            decay=DECAY,
        )
    )


_BASELINES = (
    Run(
        name="gradient-descent",
        label="gradient descent, 2/(L+μ)",
        solver="gradient-descent",
        group=BASELINE,
    ),
    Run(name="nesterov", label="Nesterov, 1/L", solver="nesterov", group=BASELINE, steps=1000),
    Run(
        name="conjugate-gradients",
        label="conjugate gradients",
        solver="conjugate-gradients",
        group=BASELINE,
        steps=300,
    ),
    Run(name="l-bfgs", label="L-BFGS", solver="l-bfgs", group=BASELINE, steps=300),
    Run(name="direct", label="direct solve", solver="direct", group=BASELINE, steps=1),
)


def quadratic(
    *, quick: bool = False, era: str = "reference", oracle: str = "published"
) -> Experiment:
    """Return the experiment of section 6.1.

    Args:
        quick: fewer runs, a quarter of the steps.
        era: ``"reference"`` for today's settings of the published code, or ``"paper"``.
        oracle: what computes the polar factor in runs with QDWH: ``"published"``, ``"exact"``,
            ``"tolerance"``.
    """
    runs = (*_main(era, oracle), *_momentum(oracle), *_BASELINES)
    steps = QUICK_STEPS if quick else STEPS
    if quick:
        runs = tuple(run for run in runs if run.name in _QUICK)
    return Experiment(
        name="quadratic",
        section="6.1",
        title="Matrix quadratic regression",
        formula="min ½‖A X B − C‖², X 500 × 100, A 1000 × 500, B 100 × 250, all Gaussian",
        version="quick" if quick else "full",
        era=era,
        oracle=oracle,
        runs=runs,
        steps=steps,
        every=10,
        metric="gap",
        metric_title="f(X) − f*",
        smoothing=SMOOTHING,
        figures=_figures(runs),
        build=build,
    )


def _figures(runs: Sequence[Run]) -> tuple[Figure, ...]:
    """The figures of the paper's two scripts, and PolarGrad among what a user would pick."""
    gap = Panel(quantity="gap", title="f(X) − f*")
    panels = (
        gap,
        Panel(quantity="residual_condition", title="κ₂(A X B − C)", smooth=True),
        Panel(quantity="gradient_condition", title="κ₂(∇f(X))", smooth=True),
    )
    nuclear = (Panel(quantity="nuclear_norm", title="Nuclear norm of ∇f(X)", smooth=True),)
    main = names_of(runs, MAIN)
    plain = ("polargrad", "polargrad-decay")
    momentum = names_of(runs, MOMENTUM, *plain)
    against = names_of(runs, BASELINE, *plain, "polargrad-momentum-first", "newton")
    resolution = "Gaps near 1e-8 are the resolution of float32."
    return (
        Figure(
            name="gap",
            runs=main,
            panels=panels,
            caption="Objective gap, evaluated in float64, and condition numbers of residual and "
            f"gradient (running averages). {resolution}",
        ),
        Figure(
            name="nuclear-norm",
            runs=main,
            panels=nuclear,
            caption="Nuclear norm of the gradient, PolarGrad's scale.",
        ),
        Figure(
            name="momentum",
            runs=momentum,
            panels=panels,
            caption=f"PolarGrad with and without momentum. {resolution}",
        ),
        Figure(
            name="momentum-nuclear-norm",
            runs=momentum,
            panels=nuclear,
            caption="Nuclear norm of the gradient with momentum.",
        ),
        Figure(
            name="baselines",
            runs=against,
            panels=(gap,),
            caption="PolarGrad and Newton beside what needs no learning rate on this problem.",
        ),
    )
