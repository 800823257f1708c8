"""The figures of the theory checks, drawn from the panels that each check keeps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polargrad.experiments.theory_check import Check, Curve, Panel
from polargrad.records.figures import COLOURS, line_style, panels, save_png

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw(check: Check, folder: Path) -> None:
    """Draw the panels of a check side by side, as one PNG file in ``folder``.

    A curve has the same colour in every panel of a check.
    """
    save_png(figure(check), folder / check.figure)


def figure(check: Check) -> Any:
    """The matplotlib figure of a check."""
    titles = ["\n".join(textwrap.wrap(panel.title, 46)) for panel in check.panels]
    width = 7.6 if len(titles) == 1 else 5.2
    drawn, axes = panels(titles, extra="experiments", width=width, height=4.8)
    labels = list(
        dict.fromkeys(
            curve.label for panel in check.panels for curve in panel.curves if curve.mark != "bound"
        )
    )
    styles = {label: i for i, label in enumerate(labels)}
    for axis, panel in zip(axes, check.panels, strict=True):
        _draw_panel(axis, panel, styles)
    return drawn


def _draw_panel(axis: Any, panel: Panel, styles: Mapping[str, int]) -> None:
    """Draw the curves of one panel and its legend below it."""
    axis.set_xscale(panel.x_scale)
    axis.set_yscale(panel.y_scale)
    bounds = 0
    for curve in panel.curves:
        if curve.mark == "bound":
            axis.plot(curve.x, curve.y, label=curve.label, color="black", **_bound_style(bounds))
            bounds += 1
        else:
            axis.plot(curve.x, curve.y, label=curve.label, **_style(curve, styles[curve.label]))
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.ticks:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=35, ha="right", fontsize=8)
    axis.legend(fontsize=7.5, frameon=True, framealpha=0.8, edgecolor="none")


def _style(curve: Curve, index: int) -> dict[str, Any]:
    """Colour and dash of a line, or colour and marker of points."""
    if curve.mark == "points":
        marker = MARKERS[index % len(MARKERS)]
        colour = COLOURS[index % len(COLOURS)]
        return {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5}
    return {**line_style(index), "linewidth": 1.3}


def _bound_style(number: int) -> dict[str, Any]:
    """Bounds are black and dotted, and differ by how."""
    dashes = ((0, (1, 1.5)), (0, (4, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1, 4)))
    return {"linestyle": dashes[number % len(dashes)], "linewidth": 1.4}
