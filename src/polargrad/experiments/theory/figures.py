"""The figures of the theory checks, drawn from the panels that each check keeps."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from polargrad.experiments.theory.check import Check, Curve, Panel
from polargrad.records.figures import COLOURS, line_style, panels, save_png

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Bounds are black, and differ by how they are broken.
DASHES = ((0, (1, 1.5)), (0, (4, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1, 4)))
# Plain words of the checks, as matplotlib sets them.
TYPESET = {
    "L_op": r"$L_{op}$",
    "κ_G": r"$\kappa_G$",
    "κ_H": r"$\kappa_H$",
    "‖_F": "‖$_F$",
    "‖_*": "‖$_*$",
}


def draw(check: Check, folder: Path) -> None:
    """Draw the panels of a check side by side, as one PNG file in ``folder``."""
    save_png(figure(check), folder / check.figure)


def figure(check: Check) -> Any:
    """The matplotlib figure of a check; panels with the same curves share one legend."""
    alone = len(check.panels) == 1
    width, letters = (7.6, 70) if alone else (5.2, 46)
    titles = [typeset("\n".join(textwrap.wrap(panel.title, letters))) for panel in check.panels]
    drawn, axes = panels(titles, extra="experiments", width=width, height=5.2)
    shared = len({_labels(panel) for panel in check.panels}) == 1
    # A label keeps its colour from panel to panel.
    styles: dict[str, int] = {}
    for axis, panel in zip(axes, check.panels, strict=True):
        for position, label in enumerate(_labels(panel)):
            styles.setdefault(label, position)
        _draw_panel(axis, panel, styles)
        if not shared:
            _legend(axis, panel)
    if shared:
        handles, labels = axes[0].get_legend_handles_labels()
        columns = 2 + len(axes) // 2
        drawn.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5
        )
    return drawn


def typeset(text: str) -> str:
    """The text with its subscripts set as such.

    Example:
        >>> typeset("2/L_op")
        '2/$L_{op}$'
    """
    for plain, mathematics in TYPESET.items():
        text = text.replace(plain, mathematics)
    return text


def _labels(panel: Panel) -> tuple[str, ...]:
    """The labels of what was measured."""
    return tuple(curve.label for curve in panel.curves if curve.mark != "bound")


def _draw_panel(axis: Any, panel: Panel, styles: dict[str, int]) -> None:
    """Draw the curves of one panel."""
    axis.set_xscale(panel.x_scale)
    axis.set_yscale(panel.y_scale)
    bounds = 0
    for curve in panel.curves:
        if curve.mark == "bound":
            style: dict[str, Any] = {"color": "black", "linewidth": 1.4}
            style["linestyle"] = DASHES[bounds % len(DASHES)]
            bounds += 1
        else:
            style = _style(curve, styles[curve.label])
        axis.plot(curve.x, curve.y, label=typeset(curve.label), **style)
    axis.set_xlabel(typeset(panel.x_label))
    axis.set_ylabel(typeset(panel.y_label))
    if panel.ticks:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=30, ha="right", fontsize=8)


def _legend(axis: Any, panel: Panel) -> None:
    """A legend below the panel; inside it where names stand below, and take the room."""
    if panel.ticks:
        axis.legend(loc="best", frameon=False, fontsize=8)
        return
    short = max(len(curve.label) for curve in panel.curves) < 22
    columns = 2 if short and len(panel.curves) > 4 else 1
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, frameon=False, fontsize=8
    )


def _style(curve: Curve, index: int) -> dict[str, Any]:
    """Colour and dash of a line, or colour and marker of points."""
    if curve.mark == "points":
        marker = MARKERS[index % len(MARKERS)]
        colour = COLOURS[index % len(COLOURS)]
        return {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5}
    return {**line_style(index), "linewidth": 1.3}
