"""The figures of a run, drawn from its records: losses, and spectra where they were watched."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from polargrad.language.spectra import GRADIENT, MOMENTUM
from polargrad.optim.routing.roles import TABLES
from polargrad.records import read_records
from polargrad.records.figures import line_style, panels, save_png

FIGURE = "loss.png"
SPECTRA_FIGURE = "spectra.png"
MEASURES = {"κ₂": "condition_number", "nuclear norm": "nuclear_norm"}


def draw_losses(records: Path, path: Path, *, title: str, unit: str) -> None:
    """Draw training and validation loss of a records file against tokens and against time.

    Args:
        records: the file.
        path: of the PNG.
        title: over the figure.
        unit: what the loss is measured per, "byte" or "token".
    """
    figure, axes = panels(
        ["against tokens", "against the time of the steps"], extra="language", height=3.8
    )
    curves = _curves(list(read_records(records)))
    for axis, x, label in zip(axes, ("tokens", "seconds"), (f"{unit}s", "seconds"), strict=True):
        for index, (name, points) in enumerate(curves.items()):
            # Points alone where it was measured seldom: a line would say more than is known.
            measured = {"linestyle": "none", "marker": "o"} if name == "validation" else {}
            style = {**line_style(index), "alpha": 1.0 if measured else 0.5, **measured}
            axis.plot([p[x] for p in points], [p["loss"] for p in points], label=name, **style)
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"cross-entropy (nats per {unit})")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    save_png(figure, path)


def _curves(records: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """The points of both curves: tokens, seconds and loss."""
    curves: dict[str, list[dict[str, float]]] = {"training": [], "validation": []}
    seconds = 0.0
    for record in records:
        seconds += record.get("seconds", 0.0)
        place = {"tokens": record.get("tokens", 0), "seconds": seconds}
        if "loss" in record:
            curves["training"].append({**place, "loss": record["loss"]})
        if "validation_loss" in record:
            curves["validation"].append({**place, "loss": record["validation_loss"]})
    return curves


def draw_spectra(records: Path, path: Path, *, title: str) -> None:
    """Draw condition numbers and nuclear norms of a spectra file against the step, as a PNG.

    Lines are medians over the matrices of a kind, bands their least and largest values.

    Args:
        records: the file.
        path: of the PNG.
        title: over the figure.
    """
    found = list(read_records(records))
    roles = sorted({m["role"] for r in found for m in r["matrices"]})
    tables = [role for role in roles if role in TABLES]
    others = [role for role in roles if role not in TABLES]
    figure, axes = panels(
        [f"{name}, {place}" for place in ("embedding and head", "hidden") for name in MEASURES],
        extra="language",
        width=4.0,
    )
    lines = [
        [(f"gradient, {role}", [role], GRADIENT) for role in tables],
        [(what, others, what) for what in (GRADIENT, MOMENTUM)],
    ]
    pairs = [(each, measure) for each in lines for measure in MEASURES.values()]
    for axis, (each, measure) in zip(axes, pairs, strict=True):
        for index, (label, chosen, what) in enumerate(each):
            points = _ranges(found, chosen, what, measure)
            if points:
                _draw_band(axis, points, label, line_style(index))
        axis.set_yscale("log")
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(frameon=False)
    figure.suptitle(title)
    save_png(figure, path)


def _ranges(
    records: list[dict[str, Any]], roles: list[str], what: str, measure: str
) -> list[tuple[int, float, float, float]]:
    """Step, least, median and largest value over the matrices of some roles.

    Zeros, as of a matrix that is not used, have no place on a logarithmic axis.
    """
    points = []
    for record in records:
        values = [m[what][measure] for m in record["matrices"] if m["role"] in roles and what in m]
        positive = [value for value in values if value > 0]
        if positive:
            middle = statistics.median(positive)
            points.append((record["step"], min(positive), middle, max(positive)))
    return points


def _draw_band(
    axis: Any,
    points: list[tuple[int, float, float, float]],
    label: str,
    style: dict[str, Any],
) -> None:
    """The medians as a line, the range as a band."""
    steps, low, middle, high = zip(*points, strict=True)
    axis.plot(steps, middle, label=label, **style)
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
