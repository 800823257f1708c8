"""The theorems of the paper, checked with numbers: which hold, where, and how tight they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.folders import add_session, at_work_in
from polargrad.experiments.theory.check import Check, check_name
from polargrad.experiments.theory.checks_descent import (
    DESCENT,
    ONE_STEP_LIMIT,
    descent,
    one_step_limit,
)
from polargrad.experiments.theory.checks_noise import NOISE_FLOOR, noise_floor
from polargrad.experiments.theory.checks_oracles import INEXACT, inexact_oracle
from polargrad.experiments.theory.checks_plateau import PLATEAU, plateau
from polargrad.experiments.theory.checks_rates import RATES, rates
from polargrad.experiments.theory.checks_stability import STABILITY, stability_limit
from polargrad.experiments.theory.checks_updates import (
    NULL_GRADIENT,
    SCALE_LAW,
    null_gradient,
    scale_law,
)
from polargrad.experiments.theory.figures import draw
from polargrad.experiments.theory.form import FULL, Extent, Setting
from polargrad.records import write_atomically

# The first three look at the same trajectories, which are computed once.
CHECKS: dict[str, Callable[[Setting], Check]] = {
    DESCENT: descent,
    ONE_STEP_LIMIT: one_step_limit,
    RATES: rates,
    INEXACT: inexact_oracle,
    STABILITY: stability_limit,
    NULL_GRADIENT: null_gradient,
    PLATEAU: plateau,
    NOISE_FLOOR: noise_floor,
    SCALE_LAW: scale_law,
}
VERDICTS = "verdicts.md"
# torch's CPU generator takes 32 bits of a seed, and the noise uses the next two seeds as well.
LARGEST_SEED = 2**32 - 3


@dataclass(frozen=True)
class TheoryRun:
    """What a call has done.

    Args:
        checks: all checks of the folder, finished now or before.
        done: the names of those that this call ran.
    """

    checks: list[Check]
    done: list[str]


def run_theory(
    out: Path, *, extent: Extent = FULL, seed: int = 42, overwrite: bool = False
) -> TheoryRun:
    """Run the checks that the folder ``out`` does not hold yet, and draw their figures.

    The folder receives ``settings.json``, ``provenance.json``, for each check ``NAME.json``,
    ``records-NAME.jsonl`` and ``NAME.png``, and ``verdicts.md``. A killed run loses the check that
    it was at.

    Args:
        out: a new or empty folder, or one that holds this run.
        extent: how much is run.
        seed: of data, starts and noise.
        overwrite: delete the run that ``out`` holds.

    Raises:
        ValueError: if the seed is outside 0 … 2³² - 3.
        RunFolderError: if ``out`` holds something else, or checks with other settings.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to {LARGEST_SEED}, got {seed}")
    settings = {"experiment": "theory", "seed": seed, **asdict(extent)}
    with at_work_in({out: settings}, overwrite=overwrite):
        return _run(out, Setting(extent, seed))


def _run(folder: Path, setting: Setting) -> TheoryRun:
    """The work of :func:`run_theory`, with no other process in the folder."""
    missing = [name for name in CHECKS if not (folder / check_name(name)).exists()]
    if missing:
        add_session(folder)
    for number, name in enumerate(missing, start=1):
        began = time.perf_counter()
        check = CHECKS[name](setting)
        check.write(folder)
        seconds = time.perf_counter() - began
        print(f"{number}/{len(missing)} {name}: {seconds:.0f} s", file=sys.stderr)
    checks = read_checks(folder)
    for check in checks:
        if check.name in missing or not (folder / check.figure).exists():
            draw(check, folder)
    if missing or not (folder / VERDICTS).exists():
        text = markdown(checks)
        write_atomically(folder / VERDICTS, lambda file: file.write(text.encode()))
    return TheoryRun(checks, missing)


def read_checks(folder: Path) -> list[Check]:
    """Return the finished checks of a folder that :func:`run_theory` has written.

    Raises:
        RunFolderError: if the folder holds none, or one of them is broken.
    """
    names = [name for name in CHECKS if (folder / check_name(name)).exists()]
    if not names:
        raise RunFolderError(f"{str(folder)!r} holds no check of the theory")
    return [Check.read(folder, name) for name in names]


def markdown(checks: Sequence[Check]) -> str:
    """The statements with their verdicts, and under each the table of its claims."""
    parts = ["# Checks of the theory\n"]
    for check in checks:
        parts += [
            f"## {check.name}: {check.claim.judgement}\n",
            f"{check.statement}\n",
            f"Source: {check.source}.\n",
            f"{check.evidence}\n",
            "| claim | where | steps | violations | margin | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for f in check.findings:
            cells = (f.claim, f.condition, f.steps, f.violations, f"{f.margin:.4g}", f.verdict)
            # A norm's bars would end the cell.
            parts.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
        parts.append(f"\n![{check.name}]({check.figure})\n")
    return "\n".join(parts)
