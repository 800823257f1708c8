"""The figures of an experiment, drawn from its records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polargrad.experiments.experiment import BASELINE, Experiment, Figure, Panel, Run
from polargrad.experiments.results import Results
from polargrad.experiments.trace import DIVERGED, ENDED
from polargrad.records.figures import COLOURS, line_style, panels, save_png

# A family of algorithms has one colour; its runs differ by their dashes. Baselines share the rest.
FAMILIES = ("polargrad", "muon", "adam", "newton", "alternating-gradient")


def figure_file(figure: str, seed: int) -> str:
    """Return the name of the file of a figure, as ``gap-42.png``."""
    return f"{figure}-{seed}.png"


def draw_all(experiment: Experiment, results: Results, folder: Path) -> None:
    """Draw every figure of the experiment for each seed, as PNG files in ``folder``."""
    for seed in results.seeds:
        for figure in experiment.figures:
            _draw(figure, experiment, results, seed, folder / figure_file(figure.name, seed))


def _draw(figure: Figure, experiment: Experiment, results: Results, seed: int, path: Path) -> None:
    version = "" if experiment.version == "full" else f" ({experiment.version} version)"
    titles = [panel.title for panel in figure.panels]
    titles[0] += version
    width = 4.2 if len(titles) > 1 else 6.4
    drawn, axes = panels(titles, extra="experiments", width=width, height=4.6)
    for axis, panel in zip(axes, figure.panels, strict=True):
        _draw_panel(axis, panel, figure, experiment, results.curves[seed])
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels), 4 if len(titles) > 2 else 3 if len(titles) == 2 else 2)
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    save_png(drawn, path)


def _draw_panel(
    axis: Any,
    panel: Panel,
    figure: Figure,
    experiment: Experiment,
    curves: dict[str, list[dict[str, Any]]],
) -> None:
    """Draw one quantity of the runs of a figure."""
    by_name = {run.name: run for run in experiment.runs}
    runs = [by_name[name] for name in figure.runs]
    for run, style in zip(runs, styles(runs), strict=True):
        name = run.name
        curve = [r for r in curves[name] if panel.until is None or r["step"] <= panel.until]
        steps = [record["step"] for record in curve]
        values = [record[panel.quantity] for record in curve]
        if panel.smooth:
            values = smoothed(steps, values, experiment.smoothing)
        if panel.logarithmic:
            values = positive(values)
        lost = " (diverged)" if curves[name][-1][ENDED] == DIVERGED else ""
        marker = {"marker": "o", "markersize": 3.5} if len(curve) < 4 else {}
        axis.plot(steps, values, label=run.label + lost, **style, **marker)
    if panel.logarithmic:
        axis.set_yscale("log")
    axis.set_xlabel("step k")


def styles(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return the style of the line of each run: no two are alike."""
    found = []
    seen: Counter[str] = Counter()
    for run in runs:
        if run.group == BASELINE:
            row, column = divmod(seen[BASELINE], len(COLOURS) - len(FAMILIES))
            thin = {"linewidth": 1.1}
            found.append({**line_style(len(COLOURS) * row + len(FAMILIES) + column), **thin})
            seen[BASELINE] += 1
        else:
            index = FAMILIES.index(run.solver) + len(COLOURS) * seen[run.solver]
            found.append(line_style(index))
            seen[run.solver] += 1
    return found


def smoothed(steps: Iterable[int], values: Iterable[float], weight: float) -> list[float]:
    """Return the running average s ← w s + (1 − w) x of samples that lie steps apart.

    w is the weight of one step: between samples that are d steps apart it is w to the power of d.
    The average begins with the first value, and again after one that is not finite.

    Example:
        >>> [round(value, 6) for value in smoothed([0, 1, 2], [1.0, 1.0, 6.0], weight=0.8)]
        [1.0, 1.0, 2.0]
    """
    averages: list[float] = []
    last_step = 0
    for step, value in zip(steps, values, strict=True):
        last = averages[-1] if averages else value
        if not math.isfinite(last):
            last = value
        kept = weight ** max(step - last_step, 0)
        averages.append(kept * last + (1 - kept) * value)
        last_step = step
    return averages


def positive(values: Iterable[float]) -> list[float]:
    """Return the values with NaN, which leaves a gap in a line, where a logarithm does not exist.

    Example:
        >>> positive([1.0, 0.0, float("inf")])
        [1.0, nan, nan]
    """
    return [value if 0 < value < math.inf else math.nan for value in values]
