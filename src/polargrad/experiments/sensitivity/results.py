"""What a sweep came to: a row a line, with its best learning rate, its limit and its width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.bench.tables import aligned
from polargrad.experiments.experiment import BASELINE
from polargrad.experiments.results import SUMMARY
from polargrad.experiments.sensitivity.grid import (
    Tried,
    best,
    blows_up,
    first_lost,
    good_region,
    limit,
    rate,
)
from polargrad.experiments.sensitivity.lines import limits_of, read_tried, records_of
from polargrad.records import read_json, write_json
from polargrad.records.run_folder import SETTINGS

TABLE = "table.txt"
EXACT = "exact"
THEORY = ("theory_limit", "theory_least", "theory_everywhere")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One optimizer with one oracle on one experiment.

    Args:
        experiment: its name.
        optimizer: the name of its published run.
        label: the optimizer as tables call it.
        oracle: a name, None for methods without a polar factor.
        oracle_label: the oracle as tables call it.
        published_lr: of the published script, None where it has none.
        best_lr: with the least final metric.
        best_value: that metric; values below the floor are the floor.
        limit: the largest learning rate up to which no run diverged.
        diverges_at: the smallest that diverged: the limit lies between the two. None if none did.
        blows_up: whether runs grew beyond the bound; otherwise those that diverged only ended above
            their start, as methods with steps of bounded length do.
        good_from, good_to: the ends of the good region, whose final metrics are within 10 × of the
            best one.
        width: good_to / good_from.
        width_below: what the width is certainly below: the factor between the points next to it.
        theory_limit: what theory says of ``limit``, where it says something: on the trajectory of
            the exact factor the median of the one-step limits, over the gain of this line's factor;
            2/L for gradient descent.
        theory_least: likewise with the least of the one-step limits.
        theory_everywhere: likewise with what bounds them at every point, where that is known: in
            6.1 2/Σσᵢ(A)²σᵢ(B)², the least that a factor can have.
        own_limit: the median of the one-step limits of the line's own step, without any assumption
            on its gain.
        limits: all that was found along the run at ``limit``, or at ``best_lr`` where nothing blows
            up: see
            :func:`polargrad.experiments.sensitivity.theory.step_limits`.
        runs: how many runs the row rests on.
    """

    experiment: str
    optimizer: str
    label: str
    oracle: str | None
    oracle_label: str | None
    published_lr: float | None
    best_lr: float | None
    best_value: float | None
    limit: float | None
    diverges_at: float | None
    blows_up: bool
    good_from: float | None
    good_to: float | None
    width: float | None
    width_below: float | None
    theory_limit: float | None
    theory_least: float | None
    theory_everywhere: float | None
    own_limit: float | None
    limits: dict[str, Any]
    runs: int

    @property
    def limit_in_words(self) -> str:
        """The limit, with what has to be known of it: a star where nothing blows up beyond it."""
        if self.limit is None:
            return "–"
        if self.diverges_at is None:
            return f"at least {self.limit:.3g}"
        return f"{self.limit:.3g}" + ("" if self.blows_up else " *")


def read_sensitivity(folder: Path) -> list[Row]:
    """Return the rows of all finished sweeps in the folder of the command.

    Raises:
        RunFolderError: if there is none, or a file is not what a sweep writes.
    """
    summaries = sorted(folder.glob(f"*/{SUMMARY}"))
    if not summaries:
        raise RunFolderError(f"{str(folder)!r} has no finished sweep")
    try:
        return [Row(**row) for path in summaries for row in read_json(path)["rows"]]
    except (KeyError, TypeError):
        raise RunFolderError(f"{str(folder)!r} does not hold sweeps") from None


def write_summary(folder: Path) -> list[Row]:
    """Write the rows of the experiment in ``folder`` as JSON and as text, and return them."""
    settings = read_json(folder / SETTINGS)
    rows = rows_of(folder, settings)
    write_json(folder / SUMMARY, {"rows": [asdict(row) for row in rows]})
    (folder / TABLE).write_text(table(rows) + "\n", encoding="utf-8")
    return rows


def rows_of(folder: Path, settings: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the experiment in ``folder``, in the order of its lines."""
    limits = {}
    for line in settings["lines"]:
        path = limits_of(folder, line["name"])
        limits[line["name"]] = read_json(path) if path.exists() else {}
    return [
        _row(
            settings, line, limits, read_tried(records_of(folder, line["name"]), settings["floor"])
        )
        for line in settings["lines"]
    ]


def _row(
    settings: Mapping[str, Any],
    line: Mapping[str, Any],
    limits: Mapping[str, dict[str, Any]],
    tried: Tried,
) -> Row:
    """The row of one line from its outcomes."""
    kept, lost, centre, region = limit(tried), first_lost(tried), best(tried), good_region(tried)
    run = line["run"]
    exact = limits.get(f"{run['name']}.{EXACT}", {})
    return Row(
        experiment=settings["experiment"],
        optimizer=run["name"],
        label=run["label"],
        oracle=line["oracle"],
        oracle_label=line["oracle_label"],
        published_lr=None if run["group"] == BASELINE else run["lr"],
        best_lr=None if centre is None else rate(centre),
        best_value=None if centre is None else tried[centre].value,
        limit=None if kept is None else rate(kept),
        diverges_at=None if lost is None else rate(lost),
        blows_up=blows_up(tried),
        good_from=None if region is None else rate(region[0]),
        good_to=None if region is None else rate(region[1]),
        width=None if region is None else rate(region[1] - region[0]),
        width_below=None if region is None else _enclosing(tried, region),
        **theory(limits[line["name"]], exact),
        own_limit=(limits[line["name"]].get("own") or {}).get("median"),
        limits=limits[line["name"]],
        runs=len(tried),
    )


def _enclosing(tried: Tried, region: tuple[int, int]) -> float | None:
    """The factor between the points next to a region on either side, where there are such."""
    below = max((i for i in tried if i < region[0]), default=None)
    above = min((i for i in tried if i > region[1]), default=None)
    return None if below is None or above is None else rate(above - below)


def theory(own: Mapping[str, Any], exact: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the limits that theory gives a line, from what was found along its run.

    Args:
        own: of the line.
        exact: of the same optimizer with the exact factor.

    Example:
        >>> exact = {"exact": {"least": 3.0, "median": 4.0}}
        >>> theory({"gain": 0.5, "constant": 1.0}, exact)
        {'theory_limit': 8.0, 'theory_least': 6.0, 'theory_everywhere': 2.0}
    """
    constant, gain = own.get("constant"), own.get("gain")
    if gain is None:
        return dict.fromkeys(THEORY, constant)
    known = exact.get("exact")
    found = ((known["median"], known["least"]) if known else (None, None)) + (constant,)
    return {
        name: None if value is None else value / gain
        for name, value in zip(THEORY, found, strict=True)
    }


HEADINGS = (
    *("", "published", "best lr", "value", "limit", "diverges"),
    *("theory", "least", "everywhere", "own step", "width", "below"),
)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as lines of text, experiment by experiment.

    A star at ``limit`` says that beyond it runs ended above their start and did not blow up.
    """
    known = list(rows)
    parts = []
    for name in dict.fromkeys(row.experiment for row in known):
        lines = [HEADINGS, *(_cells(row) for row in known if row.experiment == name)]
        parts.append("\n".join([name, *aligned(lines)]))
    return "\n\n".join(parts)


def _cells(row: Row) -> Sequence[str]:
    mark = "" if row.blows_up or row.diverges_at is None else " *"
    return (
        ", ".join(word for word in (row.label, row.oracle_label) if word is not None),
        number(row.published_lr),
        number(row.best_lr),
        number(row.best_value),
        number(row.limit) + mark,
        number(row.diverges_at),
        number(row.theory_limit),
        number(row.theory_least),
        number(row.theory_everywhere),
        number(row.own_limit),
        number(row.width),
        number(row.width_below),
    )


def number(value: float | None) -> str:
    """Return a number with three digits, or a dash where there is none.

    Example:
        >>> number(3.2359e-8), number(None)
        ('3.24e-08', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"
