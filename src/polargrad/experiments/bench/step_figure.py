"""The figure of the benchmark of a step: time by stage, a panel for each model and scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.bench.step_profile import MATRICES, OTHER, STAGES
from polargrad.experiments.bench.step_results import stages_of
from polargrad.experiments.bench.tables import Row, by
from polargrad.records import require
from polargrad.records.figures import COLOURS, STYLE, save_png

NAMES = {MATRICES: "matrices, not split", OTHER: "rest of the step"}
COLOUR = dict(zip(STAGES, (*COLOURS[:5], "#7F7F7F", "#C7C7C7"), strict=True))
# A bar is cut where it would be so much longer than the longest of ours and the reference.
LONGEST = 1.3


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the time of a step of every candidate, divided as its profiled step was.

    Lengths are medians; a much slower peer is cut, and its time written beside the bar.
    """
    matplotlib = require("matplotlib", extra="experiments")
    figure_module = require("matplotlib.figure", extra="experiments")
    blocks = by((row for row in rows if not row["skipped"]), "model", "scope")
    models = list(dict.fromkeys(model for model, _ in blocks))
    scopes = list(dict.fromkeys(scope for _, scope in blocks))
    most = max(map(len, blocks.values()))
    with matplotlib.rc_context(STYLE):
        figure = figure_module.Figure(
            figsize=(5.6 * len(scopes), (0.3 * most + 1.1) * len(models) + 0.5),
            layout="constrained",
        )
        grid = figure.subplots(len(models), len(scopes), squeeze=False)
        for line, model in zip(grid, models, strict=True):
            for axis, scope in zip(line, scopes, strict=True):
                block = blocks.get((model, scope))
                if block is None:
                    axis.set_visible(False)
                    continue
                axis.set_title(f"{model}: {scope}")
                draw_panel(axis, block)
        handles, labels = _legend(matplotlib, rows)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(handles), frameon=False
        )
        save_png(figure, path)


def draw_panel(axis: Any, block: Sequence[Row]) -> None:
    """Draw a bar for each row, the fastest on top."""
    ordered = sorted(block, key=lambda row: row["milliseconds"], reverse=True)
    limit = LONGEST * max(
        row["milliseconds"]
        for row in block
        if row["origin"] == "ours" or row["label"] == row["reference"]
    )
    for place, row in enumerate(ordered):
        start = 0.0
        for stage, length in bar(row).items():
            shown = max(0.0, min(length, limit - start))
            axis.barh(place, shown, left=start, height=0.7, color=COLOUR[stage])
            start += length
        beyond = " →" if start > limit else ""
        axis.text(
            min(start, limit) + 0.01 * limit,
            place,
            f"{row['milliseconds']:.4g} ms ({row['over_reference']:.2f}){beyond}",
            va="center",
            fontsize=7.5,
        )
    axis.set_yticks(range(len(ordered)), [row["label"] for row in ordered], fontsize=8.0)
    axis.set_xlim(0.0, limit * 1.35)  # room for the numbers
    axis.set_xlabel("milliseconds a step (relative to the reference)", fontsize=8.0)
    axis.grid(visible=False, axis="y")


def bar(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the median of a row, divided among the stages as its profiled step was.

    Example:
        >>> bar({"milliseconds": 9.0, "update_milliseconds": 2.0, "other_milliseconds": 4.0})
        {'update': 3.0, 'other': 6.0}
    """
    stages = stages_of(dict(row))
    total = sum(stages.values())
    if not total:
        return {OTHER: row["milliseconds"]}
    return {stage: row["milliseconds"] * spent / total for stage, spent in stages.items()}


def _legend(matplotlib: Any, rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
    """A patch and a name for each stage that occurs."""
    patches = require("matplotlib.patches", extra="experiments")
    present = [s for s in STAGES if any(s in stages_of(r) for r in rows if not r["skipped"])]
    return [patches.Patch(color=COLOUR[s]) for s in present], [NAMES.get(s, s) for s in present]
