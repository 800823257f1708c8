"""What the benchmark found: its rows as CSV and text, and the table that a planner can read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from polargrad.experiments.bench.cases import DTYPES
from polargrad.experiments.bench.errors import ERRORS
from polargrad.experiments.bench.tables import Row, aligned, by, left_out

COLUMNS = (
    "dtype",
    "shape",
    "rows",
    "columns",
    "batch",
    "spectrum",
    "label",
    "origin",  # ours or peer
    "process",  # same: timed in turn with the others; separate: in a process of its own, afterwards
    "milliseconds",
    "lower_quartile",
    "upper_quartile",
    "repetitions",
    "over_svd",
    "over_svd_better_quartile",
    "over_quintic",
    "over_quintic_better_quartile",
    *ERRORS,
    "skipped",
)
# A method counts as converged with errors of at most so many eps: what the tests of the converged
# methods allow.
CONVERGED = 100.0


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text: a block for each case, the fastest first, and what was left out."""
    blocks = []
    for title, block in by(rows, "dtype", "shape", "spectrum").items():
        measured = sorted(
            (row for row in block if not row["skipped"]), key=lambda row: row["milliseconds"]
        )
        lines = aligned([HEADS, *(_cells(row) for row in measured)])
        blocks.append("\n".join([" ".join(title), *lines]))
    notes = left_out(rows, "dtype", "shape", "spectrum")
    if any(row["process"] == "separate" and not row["skipped"] for row in rows):
        notes.append("*: timed afterwards, in a process of its own; ratios are those of medians")
    notes.append(
        "/SVD and /quintic: time relative to torch.linalg.svd and to Muon's quintic in float32, "
        "less is faster"
    )
    return "\n\n".join([*blocks, "\n".join(notes)])


HEADS = (
    "",
    "ms",
    "quartiles",
    "/SVD",
    "/quintic",
    "orthogonality",
    "backward",
    "forward",
    "nuclear norm",
    "deviation",
)


def _cells(row: Row) -> tuple[str, ...]:
    mark = " *" if row["process"] == "separate" else ""
    return (
        row["label"] + mark,
        f"{row['milliseconds']:.3g}",
        f"{row['lower_quartile']:.3g}-{row['upper_quartile']:.3g}",
        f"{row['over_svd']:.2f}",
        f"{row['over_quintic']:.2f}",
        *(f"{row[error]:.1e}" for error in ERRORS),
    )


def calibration(
    rows: Iterable[Row], tolerances: Iterable[float], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the table of a planner: for each dtype, shape and tolerance our fastest method.

    A method qualifies if on every spectrum its deviation was at most the tolerance; for the
    tolerance null (converged) if its orthogonality and its backward error were at most 100 eps.
    The fastest has the smallest mean over the spectra of its median times. Where no method
    qualifies there is no entry. Times of the planner itself are taken as those of its method.
    """
    entries = []
    for block in by(rows, "dtype", "shape").values():
        spectra = {row["spectrum"] for row in block}
        own = by((row for row in block if row["origin"] == "ours" and not row["skipped"]), "label")
        complete = [rows for rows in own.values() if {r["spectrum"] for r in rows} == spectra]
        references = [row for row in block if row["is_svd"]]
        for tol in (None, *tolerances):
            qualified = [rows for rows in complete if all(_meets(row, tol) for row in rows)]
            if not qualified:
                continue
            best = min(qualified, key=_mean_milliseconds)
            entries.append(
                {
                    **{key: best[0][key] for key in ("dtype", "rows", "columns", "batch")},
                    "tol": tol,
                    "method": best[0]["method"],
                    "milliseconds": _mean_milliseconds(best),
                    "svd_milliseconds": _mean_milliseconds(references),
                }
            )
    return {"format": 1, "provenance": dict(provenance), "entries": entries}


def _meets(row: Row, tol: float | None) -> bool:
    """Whether the factor is as good as the tolerance asks; an undefined error is not."""
    if tol is not None:
        return bool(row["deviation"] <= tol)
    allowed = CONVERGED * torch.finfo(DTYPES[row["dtype"]]).eps
    return bool(row["orthogonality"] <= allowed and row["backward_error"] <= allowed)


def _mean_milliseconds(rows: Sequence[Row]) -> float:
    return statistics.fmean(row["milliseconds"] for row in rows)


def points(rows: Iterable[Row], error: str = "deviation") -> dict[str, tuple[float, float]]:
    """Return time relative to SVD and error by label: the median and the worst over spectra.

    A label that was not measured on all spectra, or whose error is not finite, has no point.
    """
    rows = list(rows)
    spectra = {row["spectrum"] for row in rows}
    found = {}
    for (name,), own in by((row for row in rows if not row["skipped"]), "label").items():
        worst = max((row[error] for row in own), key=lambda e: math.inf if math.isnan(e) else e)
        if {row["spectrum"] for row in own} == spectra and math.isfinite(worst):
            found[name] = (statistics.median(row["over_svd"] for row in own), worst)
    return found


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the labels that no other one beats in time and error, from the fastest.

    Example:
        >>> pareto_front({"slow": (2.0, 0.1), "fast": (1.0, 0.5), "worse": (1.5, 0.5)})
        ['fast', 'slow']
    """
    front: list[str] = []
    least = math.inf
    for name, (_, error) in sorted(points.items(), key=lambda item: item[1]):
        if error < least:
            front.append(name)
            least = error
    return front
