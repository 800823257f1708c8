"""What became of a statement about an optimizer, as data that can be read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF, Claim
from polargrad.experiments.claims import NOT_TESTED as CLAIM_NOT_TESTED
from polargrad.records import read_json, write_json

SUPPORTED, SUPPORTED_IF = "supported", "supported if"
NOT_SUPPORTED, NOT_TESTED = "not supported", "not tested"
# One small model supports a statement or does not; a claims table speaks of whether it holds.
AS_CLAIM = {
    SUPPORTED: HOLDS,
    SUPPORTED_IF: HOLDS_IF,
    NOT_SUPPORTED: FAILS,
    NOT_TESTED: CLAIM_NOT_TESTED,
}
VERDICTS = "verdicts.json"

INSTABILITY, SPEED, WARMUP, CURVATURE = "instability", "speed", "warmup", "curvature"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A statement and what the measurements say about it.

    Args:
        name: a word.
        phenomenon: ``"instability"``, ``"speed"``, ``"warmup"`` or ``"curvature"``.
        claim: the statement.
        criterion: what was asked of the numbers before they were known.
        numbers: the evidence; NaN where there was too little to measure.
        evidence: the same in a sentence.
        verdict: a key of :data:`AS_CLAIM`.
        condition: under which it is supported, for ``"supported if"``.
        command: that makes the numbers again.

    Raises:
        ValueError: for another verdict, or a condition without ``"supported if"`` or the reverse.
    """

    name: str
    phenomenon: str
    claim: str
    criterion: str
    numbers: Mapping[str, float]
    evidence: str
    verdict: str
    condition: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in AS_CLAIM:
            raise ValueError(f"verdict must be one of {', '.join(AS_CLAIM)}, got {self.verdict!r}")
        if bool(self.condition) != (self.verdict == SUPPORTED_IF):
            raise ValueError(
                f"condition must be given exactly for {SUPPORTED_IF!r}, got {self.condition!r} "
                f"for {self.verdict!r}"
            )

    @property
    def judgement(self) -> str:
        """The verdict with its condition."""
        return f"{self.verdict} {self.condition}".strip()

    def as_claim(self) -> Claim:
        """Return the verdict as a row of the claims table."""
        return Claim(
            self.claim, self.evidence, AS_CLAIM[self.verdict], self.command, self.condition
        )


def untested(verdict: Verdict, *needed: float) -> Verdict:
    """Return the verdict, or "not tested" in its place where a needed number is not defined."""
    if any(math.isnan(number) for number in needed):
        return replace(verdict, verdict=NOT_TESTED, condition="")
    return verdict


def write_verdicts(folder: Path, verdicts: Sequence[Verdict], **about: Any) -> None:
    """Write ``verdicts.json``: the verdicts, and further plain data about the runs."""
    write_json(folder / VERDICTS, {**about, "verdicts": [asdict(v) for v in verdicts]})


def read_insights(folder: Path) -> tuple[Verdict, ...]:
    """Return the verdicts that :func:`polargrad.experiments.insights.run_insights` left.

    Raises:
        RunFolderError: if the folder holds none, or a broken file.
    """
    data = read_json(folder / VERDICTS)
    try:
        return tuple(Verdict(**verdict) for verdict in data["verdicts"])
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(f"{str(folder / VERDICTS)!r} does not hold verdicts") from None
