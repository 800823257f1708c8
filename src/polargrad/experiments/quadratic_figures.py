"""The figures of the quadratic experiment, drawn from its records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polargrad.experiments.quadratic_results import Results
from polargrad.records.figures import COLOURS, line_style, panels, save_png

GAP_FIGURE = "gap.png"
NUCLEAR_NORM_FIGURE = "nuclear_norm.png"

# s ← w s + (1 − w) x at every step, as the paper smooths its curves of condition numbers and
# nuclear norms; the gaps are never smoothed.
SMOOTHING = 0.8

# A family of optimizers has one colour; its runs differ by their dashes.
FAMILIES = ("polargrad", "muon", "adam", "newton")


def draw(results: Results, folder: Path) -> None:
    """Draw the three panels of the paper and the nuclear norms, as two PNG files in ``folder``."""
    version = "" if results.settings["version"] == "full" else " (quick version)"
    figure, axes = panels(
        ["f(X) − f*" + version, "κ₂(A X B − C)", "κ₂(∇f(X))"],
        extra="experiments",
        width=3.7,
        height=3.9,
    )
    for axis, quantity in zip(
        axes, ("gap", "residual_condition", "gradient_condition"), strict=True
    ):
        _draw_panel(axis, results, quantity, smooth=quantity != "gap")
    _legend(figure, axes[0], len(results.runs))
    save_png(figure, folder / GAP_FIGURE)

    figure, (axis,) = panels(
        ["Nuclear norm of ∇f(X)" + version], extra="experiments", width=6.4, height=4.2
    )
    _draw_panel(axis, results, "nuclear_norm", smooth=True)
    _legend(figure, axis, len(results.runs))
    save_png(figure, folder / NUCLEAR_NORM_FIGURE)


def _draw_panel(axis: Any, results: Results, quantity: str, *, smooth: bool) -> None:
    """Draw one quantity of all runs on a logarithmic axis."""
    seen: Counter[str] = Counter()
    weight = SMOOTHING ** results.settings["every"]  # what w a step comes to from sample to sample
    for run in results.runs:
        family = run["optimizer"]
        style = line_style(FAMILIES.index(family) + len(COLOURS) * seen[family])
        seen[family] += 1
        curve = results.curves[run["name"]]
        values = [record[quantity] for record in curve]
        label = run["label"] + (" (diverged)" if curve[-1]["diverged"] else "")
        axis.plot(
            [record["step"] for record in curve],
            positive(smoothed(values, weight) if smooth else values),
            label=label,
            **style,
        )
    axis.set_yscale("log")
    axis.set_xlabel("step k")


def _legend(figure: Any, axis: Any, lines: int) -> None:
    """One legend for all panels, below them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(lines, 4), frameon=False)


def smoothed(values: Iterable[float], weight: float) -> list[float]:
    """Return the running average s ← w s + (1 − w) x, which begins with the first value.

    Example:
        >>> [round(value, 6) for value in smoothed([1.0, 1.0, 6.0], weight=0.8)]
        [1.0, 1.0, 2.0]
    """
    averages: list[float] = []
    for value in values:
        last = averages[-1] if averages else value
        averages.append(weight * last + (1 - weight) * value)
    return averages


def positive(values: Iterable[float]) -> list[float]:
    """Return the values with NaN, which leaves a gap in a line, where a logarithm does not exist.

    Example:
        >>> positive([1.0, 0.0, float("inf")])
        [1.0, nan, nan]
    """
    return [value if 0 < value < math.inf else math.nan for value in values]
