"""What a check of the theory leaves behind: its claims, their verdicts, records and panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polargrad.experiments.claims import FAILS, HOLDS, Claim
from polargrad.records import RecordWriter, read_json, read_records, write_json

COMMAND = "polargrad theory"
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim and what the measurements say about it.

    Args:
        claim: the inequality or the statement.
        condition: where it was looked at.
        steps: how many steps, or points, were looked at.
        violations: at how many of them it failed.
        margin: the smallest factor by which it held, measured over promised: 1 is equality, below
            1 it fails. For a measured exponent it is that exponent, for an agreement the ratio of
            measured to predicted; ``condition`` says so.
        verdict: "holds", "holds if …" or "does not hold".
    """

    claim: str
    condition: str
    steps: int
    violations: int
    margin: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a panel: ``mark`` is "line", "points" or "bound", which is drawn dotted."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    mark: str = "line"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes; ``ticks`` names the positions 0, 1, 2, … of x, where x is no number."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    x_scale: str = "linear"
    y_scale: str = "log"
    ticks: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Check:
    """A statement of the theory, what was measured, and what follows.

    Args:
        name: a word for file names.
        statement: the statement with its formula.
        source: where it comes from.
        evidence: the measured numbers in a few sentences.
        verdict: "holds", "holds if" or "does not hold", of the statement as a whole.
        condition: under which it holds, for "holds if".
        findings: its claims one by one.
        panels: the data of the figure.
        records: a record of each step that was looked at, from which the findings were computed.
    """

    name: str
    statement: str
    source: str
    evidence: str
    verdict: str
    findings: tuple[Finding, ...]
    panels: tuple[Panel, ...]
    records: tuple[Record, ...] = field(repr=False)
    condition: str = ""

    @property
    def figure(self) -> str:
        """The name of the file with the figure."""
        return f"{self.name}.png"

    @property
    def claim(self) -> Claim:
        """The statement as a row of the table of claims."""
        return Claim(self.statement, self.evidence, self.verdict, COMMAND, self.condition)

    def write(self, folder: Path) -> None:
        """Write ``records-NAME.jsonl`` and then ``NAME.json``, whose presence means: finished."""
        path = folder / records_name(self.name)
        path.unlink(missing_ok=True)  # of a run that was killed here
        with RecordWriter(path) as writer:
            for record in self.records:
                writer.write(record)
        data = {key: value for key, value in asdict(self).items() if key != "records"}
        write_json(folder / check_name(self.name), data)

    @classmethod
    def read(cls, folder: Path, name: str) -> Check:
        """Read a finished check.

        Raises:
            RunFolderError: if one of its files is missing or broken.
        """
        data = read_json(folder / check_name(name))
        panels = tuple(
            Panel(**{**panel, "curves": tuple(Curve(**curve) for curve in panel["curves"])})
            for panel in data.pop("panels")
        )
        findings = tuple(Finding(**finding) for finding in data.pop("findings"))
        records = tuple(read_records(folder / records_name(name)))
        return cls(**data, findings=findings, panels=panels, records=records)


def check_name(name: str) -> str:
    """The file of a check's findings."""
    return f"{name}.json"


def records_name(name: str) -> str:
    """The file of a check's records."""
    return f"records-{name}.jsonl"


def bounded(
    claim: str,
    condition: str,
    ratios: Iterable[float],
    *,
    verdict: str | None = None,
    slack: float = 0.0,
) -> Finding:
    """The finding of an inequality from its ratios measured / promised, one a step.

    A step violates it where the ratio is below 1 - ``slack`` or is not a number. The verdict is
    "holds" without a violation and "does not hold" with one, unless it is given.

    Example:
        >>> finding = bounded("f falls", "one run", [3.0, 1.5])
        >>> finding.verdict, finding.margin, finding.violations
        ('holds', 1.5, 0)
    """
    values = list(ratios)
    violations = sum(not value >= 1.0 - slack for value in values)
    return Finding(
        claim=claim,
        condition=condition,
        steps=len(values),
        violations=violations,
        margin=min(values, default=math.nan),
        verdict=verdict or (FAILS if violations or not values else HOLDS),
    )


def slope(x: Iterable[float], y: Iterable[float]) -> float:
    """The exponent p of y ∝ x^p, by least squares of log y on log x.

    Example:
        >>> round(slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 12)
        2.0
    """
    pairs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x = sum(a for a, _ in pairs) / len(pairs)
    mean_y = sum(b for _, b in pairs) / len(pairs)
    spread = sum((a - mean_x) ** 2 for a, _ in pairs)
    return sum((a - mean_x) * (b - mean_y) for a, b in pairs) / spread


def thinned(values: Sequence[Any], most: int = 400) -> list[Any]:
    """At most ``most`` of the values, evenly spaced, with the first and the last, for a figure.

    Example:
        >>> thinned([0, 1, 2, 3, 4], most=3)
        [0, 2, 4]
    """
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def of(records: Iterable[Mapping[str, Any]], **wanted: object) -> list[Record]:
    """The records whose fields have the wanted values.

    Example:
        >>> of([{"run": "a", "step": 1}, {"run": "b", "step": 1}], run="b")
        [{'run': 'b', 'step': 1}]
    """
    return [dict(r) for r in records if all(r[key] == value for key, value in wanted.items())]
