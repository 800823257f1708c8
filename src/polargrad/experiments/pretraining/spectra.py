"""Condition numbers and nuclear norms that the runs recorded, by kind of matrix."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from polargrad.experiments.pretraining.comparison import Candidate
from polargrad.experiments.pretraining.curves import Curves
from polargrad.language.spectra import GRADIENT, MOMENTUM
from polargrad.optim.routing.roles import TABLES

__all__ = ["EMBEDDING", "GRADIENT", "HEAD", "HIDDEN", "MOMENTUM", "late_condition", "medians"]

EMBEDDING, HEAD, HIDDEN = "embedding", "head", "hidden matrices"
# A head that is the embedding counts as both.
TIED = "tied embedding"
KAPPA, NUCLEAR = "condition_number", "nuclear_norm"


def medians(
    curves: Iterable[Curves], kind: str, what: str, measure: str
) -> list[tuple[int, float]]:
    """Return the median of a measure over matrices and seeds at each step that was looked at.

    Args:
        curves: of the seeds.
        kind: :data:`EMBEDDING`, :data:`HEAD` or :data:`HIDDEN`.
        what: ``"gradient"`` or ``"momentum"``.
        measure: ``"condition_number"`` or ``"nuclear_norm"``.

    Returns:
        Steps and medians; steps at which none is positive and finite (a matrix without a gradient,
        or a singular one) are left out.
    """
    values: dict[int, list[float]] = {}
    for look in (look for c in curves for look in c.spectra):
        found = values.setdefault(look["step"], [])
        found += [
            matrix[what][measure]
            for matrix in look["matrices"]
            if _is(kind, matrix["role"]) and what in matrix
        ]
    points = []
    for step, found in sorted(values.items()):
        known = [value for value in found if 0 < value < math.inf]
        if known:
            points.append((step, statistics.median(known)))
    return points


def _is(kind: str, role: str) -> bool:
    return role not in TABLES if kind == HIDDEN else role in (kind, TIED)


def late_condition(candidate: Candidate, kind: str) -> float:
    """Return the median κ₂ of the gradients over the second half of the runs; NaN without looks."""
    points = medians(candidate.curves.values(), kind, GRADIENT, KAPPA)
    half = max((c.settings["steps"] for c in candidate.curves.values()), default=0) / 2
    late = [value for step, value in points if step > half]
    return statistics.median(late) if late else math.nan
