"""How wide the good region of each rule for the step size is, on the paper's matrix problems.

    python benchmarks/found_steps_rules.py --out runs/found-rules [--problem 6.1]
        [--figure docs/images/found_rules.png --language docs/data/found_language.jsonl]

PolarGrad without momentum under every rule (this package's beside that along averages of polar
factors, "of directions"), from starting steps over six decades or with learning
rates over seven around the published one, constant or falling linearly to zero; seed 42. A finished
run is one line of OUT/results.jsonl and is not run again: the command can be stopped and started.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from found_steps import WAYS, begun
from resumable import Results
from step_rules import RULES
from torch import Tensor

import polargrad as pg
from polargrad.experiments import completion, logistic, quadratic
from polargrad.experiments.experiment import Experiment
from polargrad.records import read_records

FOUND, DIRECTIONS = "found", "found, of directions"
CONSTANT, FALLING = "constant", "falling"


@dataclass(frozen=True)
class Problem:
    """A problem, how long it is run, and the learning rate around which others lie."""

    make: Callable[[], Experiment]
    steps: int
    dtype: torch.dtype
    published: float


PROBLEMS = {
    "6.1": Problem(quadratic, 600, torch.float64, 4e-8),
    "6.2": Problem(logistic, 500, torch.float32, 2.5e-7),
    "6.3": Problem(completion, 150, torch.float32, 15.0),
}
STARTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
# Twelve around the published one, most of them near it: a factor of two is a good region there.
FACTORS = (1e-3, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 3.0, 10.0)
NEED_LOSS = ("Polyak, factor", "Armijo")


@dataclass(frozen=True, order=True)
class Run:
    """One run: a rule, its number (None: the default), and the multiplier's course."""

    problem: str
    rule: str
    number: float | None
    schedule: str


def planned(problem: str) -> list[Run]:
    """All runs of a problem; a rule that needs the loss has none where only a batch is seen."""
    rates = [PROBLEMS[problem].published * factor for factor in FACTORS]
    runs = [Run(problem, r, s, CONSTANT) for r in (FOUND, DIRECTIONS) for s in (None, *STARTS)]
    runs += [
        Run(problem, "PolarGrad, lr", lr, schedule)
        for lr in rates
        for schedule in (CONSTANT, FALLING)
    ]
    runs += [Run(problem, "schedule-free, lr", lr, CONSTANT) for lr in rates]
    for rule in ("DoG", "Prodigy", "D-adaptation", "Mechanic", "Barzilai–Borwein"):
        runs += [Run(problem, rule, start, CONSTANT) for start in STARTS]
    runs += [Run(problem, "OptMuon, θ", 10.0**k, CONSTANT) for k in range(-6, 6)]
    if problem != "6.2":
        runs += [Run(problem, "Polyak, factor", factor, CONSTANT) for factor in (0.5, 1.0, 2.0)]
        runs += [Run(problem, "Armijo", start, CONSTANT) for start in STARTS]
    return runs


def finished(run: Run) -> float:
    """The metric at the end of a run; infinite where it diverged."""
    spec = PROBLEMS[run.problem]
    experiment = spec.make()
    task, unknowns, tol = begun(experiment, 42, spec.dtype)
    values = [X.data for X in unknowns]
    optimizer = rule = None
    if run.rule in (FOUND, DIRECTIONS):
        way = WAYS["gradients" if run.rule == FOUND else "directions"]
        optimizer = pg.PolarGrad(unknowns, tol=tol, first_step=run.number, **way)
    else:
        rule = RULES[run.rule](values, run.number, tol=tol)

    def loss(at: Sequence[Tensor]) -> float:
        return float(task.measure(list(at))[experiment.metric])

    for step in range(spec.steps):
        task.advance()
        gradients = task.gradients(values)
        if not all(bool(G.isfinite().all()) for G in gradients):
            return math.inf
        if optimizer is not None:
            for X, G in zip(unknowns, gradients, strict=True):
                X.grad = G
            optimizer.step()
            continue
        share = 1.0 if run.schedule == CONSTANT else 1.0 - step / spec.steps
        try:
            rule.step(gradients, share, loss if run.rule in NEED_LOSS else None)
        except (ZeroDivisionError, OverflowError, pg.PolarGradError):
            return math.inf
    end = loss(values if rule is None else rule.results())
    return end if math.isfinite(end) else math.inf


def table(results: dict[Run, float]) -> list[str]:
    """The results as Markdown: best, median and worst over the numbers of each rule."""
    rows: dict[tuple[str, str, str], dict[float | None, float]] = defaultdict(dict)
    for run, value in results.items():
        rows[run.problem, run.rule, run.schedule][run.number] = value
    lines = ["| problem | rule | schedule | metric: best | at | median | worst | numbers tried |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (problem, rule, schedule), curve in sorted(rows.items()):
        ordered = sorted(curve.values())
        best = min(curve, key=lambda number: curve[number])
        lines.append(
            f"| {problem} | {rule} | {schedule} | {ordered[0]:.4g} "
            f"| {'default' if best is None else f'{best:.3g}'} "
            f"| {ordered[len(ordered) // 2]:.4g} | {ordered[-1]:.4g} | {len(curve)} |"
        )
    return lines


# The rules in the order of their colours, the same in all panels.
COLOURS = (
    *(FOUND, "PolarGrad, lr", "PolarGrad, lr falling", "Muon", "OptMuon, θ", "Polyak, factor"),
    *("Armijo", "Barzilai–Borwein", "DoG", "Prodigy", "AdamW", DIRECTIONS),
    *("D-adaptation", "Mechanic", "schedule-free, lr", "schedule-free Muon"),
)
OURS = {FOUND: "-", DIRECTIONS: "--"}
# Beyond the ten colours of matplotlib's cycle.
PALE = dict(zip(COLOURS[-4:], ("#7fa8d9", "#86cf79", "#f28e8c", "#b79fd0"), strict=True))
GIVEN = (*COLOURS[1:6], "AdamW", *COLOURS[-2:])  # a number has to be chosen
LARGEST_GAP, LARGEST_LOSS = 1e10, 3.0

Curves = dict[str, list[tuple[float, float]]]


def curves_of(results: dict[Run, float], problem: str) -> Curves:
    """The ends of a problem against first steps, rates or factors, by rule."""
    top = LARGEST_LOSS if problem == "6.2" else LARGEST_GAP
    curves: Curves = defaultdict(list)
    for run, value in results.items():
        if run.problem == problem and run.number is not None:
            name = run.rule if run.schedule == CONSTANT else f"{run.rule} falling"
            curves[name].append((run.number, min(value, top)))
    return curves


def curves_of_language(path: Path) -> Curves:
    """Those of the records of found_steps_language.py on its first seed, with its schedule."""
    curves: Curves = defaultdict(list)
    for line in read_records(path):
        run = line["run"]
        if run["number"] is not None and run["seed"] == 0 and run["schedule"] == "decay":
            name = "PolarGrad, lr falling" if run["method"] == "PolarGrad" else run["method"]
            curves[name].append((run["number"], float(line["validation_loss"])))
    return curves


def draw(results: dict[Run, float], path: Path, language: Path | None) -> None:
    """Final metric against starting step, or lr, θ or factor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = [
        (
            f"{name}, after {PROBLEMS[name].steps} steps",
            PROBLEMS[name].make().metric.replace("_", " "),
            "linear" if name == "6.2" else "log",
            curves_of(results, name),
        )
        for name in PROBLEMS
        if any(run.problem == name for run in results)
    ]
    if language is not None:
        found = curves_of_language(language)
        columns.append(("language model, 400 steps", "nats per byte", "linear", found))
    figure, axes = plt.subplots(2, len(columns), figsize=(4.2 * len(columns), 7.6), squeeze=False)
    seen = {}
    for column, (title, metric, scale, curves) in enumerate(columns):
        for rule in COLOURS:
            if rule not in curves:
                continue
            axis = axes[1 if rule in GIVEN else 0, column]
            (seen[rule],) = axis.plot(
                *zip(*sorted(curves[rule]), strict=True),
                marker="o",
                markersize=3,
                linewidth=2.4 if rule in OURS else 1.1,
                linestyle=OURS.get(rule, "-"),
                color="black" if rule in OURS else PALE.get(rule, f"C{COLOURS.index(rule) - 1}"),
                zorder=3 if rule in OURS else 2,
            )
        for row, what in enumerate(("first step", "learning rate, θ or factor")):
            axis = axes[row, column]
            axis.set_xscale("log")
            axis.set_yscale(scale)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel(what, fontsize=8)
            axis.set_ylabel(metric, fontsize=8)
            axis.tick_params(labelsize=7)
        limits = [end for axis in axes[:, column] for end in axis.get_ylim()]
        for axis in axes[:, column]:
            axis.set_ylim(min(limits), max(limits))
    named = {FOUND: "this package, lr=None", DIRECTIONS: "this package, polar-first, lr=None"}
    names = [named.get(rule, rule) for rule in seen]
    figure.legend(list(seen.values()), names, loc="lower center", ncols=6, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is left; print the table and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problem", choices=tuple(PROBLEMS))
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--figure", type=Path, help="draw all results there")
    parser.add_argument("--language", type=Path, help="with the records of the language model")
    options = parser.parse_args()
    results = Results(options.out, Run, "metric")
    for problem in [options.problem] if options.problem else PROBLEMS:
        results.complete([] if options.table else planned(problem), finished)
    print("\n".join(table(results.known())))
    if options.figure is not None:
        draw(results.known(), options.figure, options.language)


if __name__ == "__main__":
    main()
