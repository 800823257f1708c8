"""Matrix quadratic regression with PolarGrad, Muon, Adam and Newton: section 6.1 of the paper.

The runs of PolarGrad with momentum and those with ZOLO-PD are not part of it yet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.protocol import Protocol, Run, descend
from polargrad.experiments.quadratic_figures import draw
from polargrad.experiments.quadratic_results import PROVENANCE, SUMMARY, Results, write_json
from polargrad.linalg import QDWH, NewtonSchulz
from polargrad.linalg.methods import plain
from polargrad.problems import MatrixQuadraticRegression
from polargrad.records import RecordWriter, RunFolder, provenance, require

# torch's CPU generator takes 32 bits of a seed: two larger ones could be the same data.
SEEDS = 2**32

# PolarGrad of the published experiments has no momentum and a two-step QDWH, whose singular
# values end below 1: with an exact polar factor these learning rates diverge.
_POLARGRAD = {"momentum": 0.0, "method": plain(QDWH.reference())}
# Muon of the published experiments (muon.py, Muon_polar): an average as momentum, Nesterov, and
# neither a factor of the shape nor weight decay.
_MUON = {"magnitude": "unit", "momentum": 0.95, "nesterov": True}
_MUON_QDWH = {**_MUON, "method": plain(QDWH.reference())}
_MUON_NS = {**_MUON, "method": plain(NewtonSchulz())}

# Learning rates, decay and inner steps: timlautk/polargrad, mat_quad_reg.py, at 79f3c6f. Adam has
# torch's defaults. The published Newton-Schulz runs in bfloat16; here it runs in float32.
RUNS = (
    Run(name="polargrad", label="PolarGrad", optimizer="polargrad", lr=4e-8, options=_POLARGRAD),
    Run(
        name="polargrad-decay",
        label="PolarGrad, lr ↓",
        optimizer="polargrad",
        lr=4.75e-8,
        options=_POLARGRAD,
        decay=0.99,
    ),
    Run(name="muon-qdwh", label="Muon (QDWH)", optimizer="muon", lr=0.1, options=_MUON_QDWH),
    Run(
        name="muon-qdwh-decay",
        label="Muon (QDWH), lr ↓",
        optimizer="muon",
        lr=0.05,
        options=_MUON_QDWH,
        decay=0.99,
    ),
    Run(name="muon-ns", label="Muon (Newton–Schulz)", optimizer="muon", lr=0.1, options=_MUON_NS),
    Run(name="adam", label="Adam", optimizer="adam", lr=0.05),
    Run(name="adam-decay", label="Adam, lr ↓", optimizer="adam", lr=0.05, decay=0.99),
    Run(name="newton", label="Newton", optimizer="newton", lr=0.25),
)
_QUICK = ("polargrad", "polargrad-decay", "muon-qdwh", "muon-qdwh-decay", "adam")

FULL = Protocol(version="full", runs=RUNS, steps=4000, every=10)
QUICK = Protocol(
    version="quick", runs=tuple(run for run in RUNS if run.name in _QUICK), steps=1000, every=10
)


def reproduce_quadratic(
    out: Path, *, protocol: Protocol = FULL, seed: int = 42, overwrite: bool = False
) -> Results:
    """Run the experiment and write its records, its summary and its figures to the folder ``out``.

    It writes ``settings.json``, ``provenance.json``, one file of records a run, ``summary.json``,
    ``gap.png`` and ``nuclear_norm.png``.

    Args:
        out: a new or empty folder, or with ``overwrite`` one that holds a run.
        protocol: :data:`FULL`, as published, or :data:`QUICK`.
        seed: of the data and the start, as the published code seeds them.
        overwrite: delete the run that ``out`` holds.

    Returns:
        What the folder holds.

    Raises:
        ValueError: if the seed is not in 0 … 2³² − 1.
        RunFolderError: if ``out`` is not free.
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be from 0 to {SEEDS - 1}, got {seed}")
    tqdm = require("tqdm", extra="experiments").tqdm
    settings = {"experiment": "quadratic", "seed": seed, **protocol.as_data()}
    folder = RunFolder.claim(out, settings, overwrite=overwrite).path
    write_json(folder / PROVENANCE, provenance())
    problem, start = MatrixQuadraticRegression.published(seed)
    total = len(protocol.runs) * protocol.steps
    # Without a terminal (disable=None) there is no bar, and a line for each run instead.
    with tqdm(total=total, disable=None, unit="step", file=sys.stderr) as bar:
        for number, run in enumerate(protocol.runs):
            bar.set_description(run.label)
            with RecordWriter(folder / run.records) as records:
                for record in _trace(run, problem, start, protocol):
                    records.write(record)
                    bar.update(number * protocol.steps + record["step"] - bar.n)
            if bar.disable:
                print(f"{run.label}: {_state(record)}", file=sys.stderr, flush=True)
    results = Results.read(folder)
    write_json(folder / SUMMARY, results.summary())
    draw(results, folder)
    return results


def _trace(
    run: Run, problem: MatrixQuadraticRegression, start: Tensor, protocol: Protocol
) -> Iterator[dict[str, Any]]:
    """The records of one run."""

    def newton(X: Tensor) -> Tensor:
        return problem.newton_direction(problem.gradient(X))

    return descend(
        run,
        start,
        gradient=newton if run.optimizer == "newton" else problem.gradient,
        measure=lambda X: measure(problem, X),
        steps=protocol.steps,
        every=protocol.every,
    )


def measure(problem: MatrixQuadraticRegression, X: Tensor) -> dict[str, float]:
    """Return what a record holds of ``X``; residual and gradient as the optimizer computes them.

    The gap f - f* is evaluated in float64, and so are the singular values of residual and
    gradient. The gradient is that of f also for Newton's method. Condition numbers and the nuclear
    norm of what is not finite are NaN.

    Example:
        >>> problem = MatrixQuadraticRegression(*(torch.eye(2) for _ in "ABC"))
        >>> {name: round(value, 6) for name, value in measure(problem, -torch.eye(2)).items()}
        {'gap': 4.0, 'residual_condition': 1.0, 'gradient_condition': 1.0, 'nuclear_norm': 4.0}
    """
    residual = _singular_values(problem.residual(X))
    gradient = _singular_values(problem.gradient(X))
    return {
        "gap": problem.gap(X),
        "residual_condition": (residual[0] / residual[-1]).item(),
        "gradient_condition": (gradient[0] / gradient[-1]).item(),
        "nuclear_norm": gradient.sum().item(),
    }


def _singular_values(matrix: Tensor) -> Tensor:
    """The singular values in float64, from the largest; NaN if the matrix is not finite."""
    if not matrix.isfinite().all():
        return torch.full((min(matrix.shape),), torch.nan, dtype=torch.float64)
    values: Tensor = torch.linalg.svdvals(matrix.double())
    return values


def _state(record: dict[str, Any]) -> str:
    """The end of a run in words."""
    if record["diverged"]:
        return f"diverged at step {record['step']}"
    return f"f - f* = {record['gap']:.3g} after {record['step']} steps, {record['seconds']:.1f} s"
