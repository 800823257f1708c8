"""Heat maps of the final metric: learning rate by oracle, and by optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.experiments.sensitivity.grid import POINTS_PER_DECADE, Tried
from polargrad.experiments.sensitivity.lines import read_tried, records_of
from polargrad.experiments.sensitivity.protocol import PUBLISHED_ORACLE
from polargrad.experiments.sensitivity.results import Row, number
from polargrad.records import read_json, read_records, require
from polargrad.records.figures import STYLE, save_png
from polargrad.records.run_folder import SETTINGS

BY_ORACLE, BY_OPTIMIZER = "oracles.png", "optimizers.png"
PANELS_IN_A_ROW = 2
COLOURS = "viridis"
LOST = "#E0E0E0"
BLOWN_HATCH, ABOVE_START_HATCH = "xxxx", "...."
EDGE = "#8C8C8C"
MARKS: dict[str, dict[str, Any]] = {
    "best": {"marker": "o", "color": "white", "markeredgecolor": "black", "markersize": 6},
    "measured limit": {"marker": "|", "color": "black", "markersize": 15, "markeredgewidth": 2.2},
    "theory": {"marker": "D", "color": "#D55E00", "markeredgecolor": "white", "markersize": 6},
    "published": {"marker": "^", "color": "#CC79A7", "markeredgecolor": "black", "markersize": 6},
}
# Marks at nearly the same learning rate do not hide each other.
OFFSETS = {"theory": 0.28, "published": -0.28}


@dataclass(frozen=True)
class Strip:
    """One row of a heat map.

    Args:
        row: what the line came to.
        tried: its outcomes.
        unit: what learning rates are divided by.
        label: beside it.
    """

    row: Row
    tried: Tried
    unit: float
    label: str


def draw_sensitivity(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Draw the heat maps of the experiment in ``folder`` and return their files.

    One has a panel for each optimizer that was run with several oracles, the other a row for each
    optimizer, with learning rates over its best one.
    """
    settings = read_json(folder / SETTINGS)
    known = [
        (row, read_tried(records_of(folder, line["name"]), settings["floor"]))
        for row, line in zip(rows, settings["lines"], strict=True)
    ]
    first = read_records(records_of(folder, settings["lines"][0]["name"]))
    scale = _scale([tried for _, tried in known], worst=float(next(first)["start"]))
    panels: dict[str, list[Strip]] = {}
    for row, tried in known:
        if row.oracle_label is not None:
            strip = Strip(row, tried, 1.0, row.oracle_label)
            panels.setdefault(row.label, []).append(strip)
    panels = {label: strips for label, strips in panels.items() if len(strips) > 1}
    files = []
    if panels:
        files.append(folder / BY_ORACLE)
        _draw(panels, settings, scale, "learning rate", files[-1])
    strips = [
        Strip(row, tried, row.best_lr, f"{row.label}\nbest {number(row.best_lr)}")
        for row, tried in known
        if row.oracle in (None, PUBLISHED_ORACLE) and row.best_lr is not None
    ]
    files.append(folder / BY_OPTIMIZER)
    _draw({"": strips}, settings, scale, "learning rate / best learning rate", files[-1])
    return files


def edges(tried: Tried, unit: float = 1.0) -> list[float]:
    """Return the ends of the cells of a strip: half way between its learning rates.

    Example:
        >>> from polargrad.experiments.sensitivity.grid import Outcome
        >>> [round(x, 2) for x in edges({0: Outcome(1.0), 100: Outcome(1.0)})]
        [0.32, 3.16, 31.62]
    """
    points = sorted(tried)
    middles = [(a + b) / 2.0 for a, b in itertools.pairwise(points)]
    first = points[0] - (middles[0] - points[0] if middles else 2.0)
    last = points[-1] + (points[-1] - middles[-1] if middles else 2.0)
    return [10.0 ** (i / POINTS_PER_DECADE) / unit for i in (first, *middles, last)]


def _scale(outcomes: Sequence[Tried], *, worst: float) -> dict[str, Any]:
    """Colours from the least metric of all to that of the start, in logarithms."""
    colors = require("matplotlib.colors", extra="experiments")
    values = [o.value for tried in outcomes for o in tried.values() if not o.lost]
    least = min([value for value in values if value > 0], default=worst / 10.0)
    return {"norm": colors.LogNorm(vmin=min(least, worst / 10.0), vmax=worst), "cmap": COLOURS}


def _draw(
    panels: Mapping[str, Sequence[Strip]],
    settings: Mapping[str, Any],
    scale: Mapping[str, Any],
    x_label: str,
    path: Path,
) -> None:
    """Draw panels of strips that share their colours, and save them."""
    matplotlib = require("matplotlib", extra="experiments")
    figure_module = require("matplotlib.figure", extra="experiments")
    columns = min(PANELS_IN_A_ROW, len(panels))
    lines = math.ceil(len(panels) / columns)
    tallest = max(len(strips) for strips in panels.values())
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "hatch.linewidth": 0.6}):
        size = (6.4 * columns + 1.4, (0.42 * tallest + 1.1) * lines + 1.3)
        figure = figure_module.Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, strips) in zip(axes, panels.items(), strict=False):
            _draw_panel(axis, strips, scale)
            axis.set_title(title)
            axis.set_xlabel(x_label)
        version = "" if settings["version"] == "full" else f" ({settings['version']} version)"
        figure.suptitle(
            f"{settings['title']}{version}\n"
            f"colour: {settings['metric_title']} after {settings['steps']} steps"
        )
        visible = axes[: len(panels)]
        colour_module = require("matplotlib.cm", extra="experiments")
        figure.colorbar(colour_module.ScalarMappable(**scale), ax=visible, extend="max")
        _legend(figure)
        save_png(figure, path)


def _draw_panel(axis: Any, strips: Sequence[Strip], scale: Mapping[str, Any]) -> None:
    """Draw the strips from top to bottom."""
    ticker = require("matplotlib.ticker", extra="experiments")
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 5.0)))
    axis.xaxis.set_minor_formatter(ticker.LogFormatterSciNotation(minor_thresholds=(2.0, 2.0)))
    for height, strip in enumerate(strips):
        _draw_cells(axis, strip, height, scale)
    for height, strip in enumerate(strips):
        places = {
            "best": strip.row.best_lr,
            "measured limit": strip.row.limit if strip.row.blows_up else None,
            "theory": strip.row.theory_limit,
            "published": strip.row.published_lr,
        }
        for name, lr in places.items():
            if lr is not None:
                # What lies outside of the strip is not drawn, and does not widen the axes.
                low, *_, high = edges(strip.tried, strip.unit)
                if low <= lr / strip.unit <= high:
                    place = height + OFFSETS.get(name, 0.0)
                    axis.plot([lr / strip.unit], [place], linestyle="none", **MARKS[name])
    axis.set_yticks(range(len(strips)), [strip.label for strip in strips])
    axis.set_ylim(len(strips) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)


def _draw_cells(axis: Any, strip: Strip, height: int, scale: Mapping[str, Any]) -> None:
    ends = edges(strip.tried, strip.unit)
    outcomes = [strip.tried[i] for i in sorted(strip.tried)]
    values = [math.nan if outcome.lost else outcome.value for outcome in outcomes]
    axis.pcolormesh(ends, [height - 0.46, height + 0.46], [values], **scale)
    for low, high, outcome in zip(ends, ends[1:], outcomes, strict=False):
        if outcome.lost:
            axis.barh(height, high - low, left=low, height=0.92, **_lost(outcome.blown))


def _lost(blown: bool) -> dict[str, Any]:
    hatch = BLOWN_HATCH if blown else ABOVE_START_HATCH
    return {"facecolor": LOST, "edgecolor": EDGE, "hatch": hatch, "linewidth": 0.0}


def _legend(figure: Any) -> None:
    """Explain marks and hatches below the panels."""
    line_module = require("matplotlib.lines", extra="experiments")
    patch_module = require("matplotlib.patches", extra="experiments")
    marks = {
        "best": "best",
        "measured limit": "largest that does not blow up",
        "theory": "limit by theory",
        "published": "published",
    }
    handles = [
        line_module.Line2D([], [], linestyle="none", label=label, **MARKS[name])
        for name, label in marks.items()
    ]
    handles += [
        patch_module.Patch(label="blew up", **_lost(True)),
        patch_module.Patch(label="ended above its start", **_lost(False)),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
