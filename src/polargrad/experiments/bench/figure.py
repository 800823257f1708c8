"""The figure of the benchmark: error against time, a panel for each dtype and shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.bench.results import pareto_front, points
from polargrad.experiments.bench.tables import Row, by
from polargrad.records import require
from polargrad.records.figures import COLOURS, STYLE, save_png

FIGURE = "accuracy_time.png"
PANELS_IN_A_ROW = 3
LEAST_ERROR = 1e-17  # where an error of exactly zero is drawn on a logarithmic axis
GREY = "#7F7F7F"
SHAPES = ("o", "^", "v")
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)

# Where a number may stand about its point, in points of 1/72 inch: near ones first.
PLACES = [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in (9.0, 15.0, 22.0, 30.0, 40.0, 52.0)
    for angle in (math.pi * k / 8 for k in (2, 1, 3, 0, 4, 7, 5, 6, 8, 15, 9, 14, 10, 12, 13, 11))
]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw time relative to torch's SVD and deviation of all candidates, with the Pareto front.

    Every candidate has a number, the same in all panels, which the legend explains; the time is
    the median over the spectra, the error the worst of them.
    """
    matplotlib = require("matplotlib", extra="experiments")
    figure_module = require("matplotlib.figure", extra="experiments")
    measured = [row for row in rows if not row["skipped"]]
    blocks = by(measured, "dtype", "shape")
    names = list({row["label"]: row for row in measured})
    styles = marker_styles({row["label"]: row for row in measured})
    columns = min(len(blocks), PANELS_IN_A_ROW)
    lines = math.ceil(len(blocks) / columns)
    legend_columns = max(1, (columns * 5) // 3)
    legend_height = 0.2 * math.ceil(len(names) / legend_columns) + 0.3
    with matplotlib.rc_context(STYLE):
        figure = figure_module.Figure(
            figsize=(5.2 * columns, 4.2 * lines + legend_height), layout="constrained"
        )
        grid = figure.subplots(lines, columns, squeeze=False)
        axes = list(grid.flat)
        for axis in axes[len(blocks) :]:
            axis.set_visible(False)
        drawn = []
        for axis, (title, block) in zip(axes, blocks.items(), strict=False):
            axis.set_title(" ".join(title))
            drawn.append(_draw_panel(axis, points(block), styles))
        for line in grid:
            line[0].set_ylabel("largest |σ − 1| of the factor, worst spectrum")
        handles = [_handle(matplotlib, styles[name]) for name in names]
        labels = [f"{i}  {_note(name, measured)}" for i, name in enumerate(names, start=1)]
        figure.legend(
            handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False
        )
        # Numbers are placed in pixels, which are known when everything else has its place.
        figure.draw_without_rendering()
        for axis, found in zip(axes, drawn, strict=False):
            _number(axis, found, names)
        save_png(figure, path)


def marker_styles(rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Return colour and marker by label: a colour for each of our methods, grey for peers.

    A circle or a triangle is ours, a diamond what the planner chose, a square a peer, hollow where
    it was timed in a process of its own.
    """
    families = list(dict.fromkeys(row["method"]["name"] for row in rows.values() if row["method"]))
    palette = [colour for colour in COLOURS if colour != GREY]
    styles: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        if row["method"] is None:
            hollow = row["process"] == "separate"
            fill = "white" if hollow else GREY
            styles[name] = {"marker": "s", "color": fill, "markeredgecolor": GREY}
        else:
            # More families than colours: the shape of the point tells the rest apart.
            turn, place = divmod(families.index(row["method"]["name"]), len(palette))
            colour = palette[place]
            marker = "D" if name.startswith("auto(") else SHAPES[turn % len(SHAPES)]
            styles[name] = {"marker": marker, "color": colour, "markeredgecolor": "white"}
    return styles


def _note(name: str, rows: Sequence[Row]) -> str:
    separate = any(row["label"] == name and row["process"] == "separate" for row in rows)
    return f"{name} (own process)" if separate else name


def _handle(matplotlib: Any, style: Mapping[str, Any]) -> Any:
    lines = require("matplotlib.lines", extra="experiments")
    return lines.Line2D([], [], linestyle="none", markersize=7, **style)


def _draw_panel(
    axis: Any, found: Mapping[str, tuple[float, float]], styles: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """Draw the points and their front on logarithmic axes; return the points as drawn."""
    shown = {name: (time, max(error, LEAST_ERROR)) for name, (time, error) in found.items()}
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("time relative to torch.linalg.svd")
    axis.axvline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    front = [shown[name] for name in pareto_front(shown)]
    axis.step(*zip(*front, strict=True), where="post", color="black", linewidth=1.0, zorder=1)
    for name, (time, error) in shown.items():
        axis.plot([time], [error], linestyle="none", markersize=7, zorder=3, **styles[name])
    axis.margins(0.12)
    low, high = axis.get_xlim()
    axis.set_xticks([tick for tick in TICKS if low < tick < high])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter("{x:g}")
    return shown


def _number(axis: Any, found: Mapping[str, tuple[float, float]], names: Sequence[str]) -> None:
    """Write its number beside every point, where no other number or point is; bold on the front."""
    scale = axis.figure.dpi / 72.0
    pixels = {name: axis.transData.transform(point) for name, point in found.items()}
    taken = [(x, y, 4.5 * scale, 4.5 * scale) for x, y in pixels.values()]
    frame = axis.get_window_extent()
    front = pareto_front(found)
    for name in sorted(found, key=lambda label: (label not in front, names.index(label))):
        text = str(names.index(name) + 1)
        half = ((3.4 * len(text) + 1.0) * scale, 5.0 * scale)
        x, y = pixels[name]
        places = [
            (dx, dy)
            for dx, dy in PLACES
            if frame.x0 < x + dx * scale < frame.x1 and frame.y0 < y + dy * scale < frame.y1
        ]
        dx, dy = next(
            (
                place
                for place in places
                if not _overlaps((x + place[0] * scale, y + place[1] * scale, *half), taken)
            ),
            PLACES[0],
        )
        taken.append((x + dx * scale, y + dy * scale, *half))
        far = math.hypot(dx, dy) > 10.0
        axis.annotate(
            text,
            found[name],
            xytext=(dx, dy),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.0,
            fontweight="bold" if name in front else "normal",
            zorder=4,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0.0}
            if far
            else None,
        ).set_in_layout(False)


def _overlaps(
    box: tuple[float, float, float, float], others: Sequence[tuple[float, float, float, float]]
) -> bool:
    """Whether a box (centre and half sizes) meets one of the others."""
    x, y, width, height = box
    return any(abs(x - u) < width + w and abs(y - v) < height + h for u, v, w, h in others)
