"""The report of the paper's experiments: claims first, then each experiment."""

from __future__ import annotations

from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import Evidence, judge
from polargrad.experiments.report import (
    claims_section,
    commands_section,
    experiment_section,
    settings_section,
    write_report,
)
from polargrad.experiments.reproduce import EXPERIMENTS, choose, finished_experiments
from polargrad.experiments.results import Results
from polargrad.records.document import Block, Paragraph

REPORT = "report"
TITLE = "PolarGrad on matrix problems: which claims hold"


def write_paper_report(folder: Path) -> Path:
    """Write ``report.html`` and ``report.md`` of the experiments in ``folder``; return the page.

    Args:
        folder: what :func:`polargrad.experiments.reproduce.reproduce` was given.

    Raises:
        RunFolderError: if it holds no finished experiment.
    """
    found = finished_experiments(folder)
    if not found:
        raise RunFolderError(f"{str(folder)!r} holds no finished experiment")
    claims = judge(Evidence(found))
    blocks: list[Block] = [
        Paragraph(
            "The matrix experiments of arXiv 2505.21799 (Lau, Long and Su), repeated with the "
            "published settings, beside what a user would pick instead. Steps are deterministic; "
            "times are medians of one run on one machine, and mean something beside each other "
            "alone."
        ),
        *claims_section(claims),
    ]
    for name, results in found.items():
        (experiment,) = choose(
            [name],
            quick=results.settings["version"] == "quick",
            era=results.settings["era"],
            oracle=results.settings["oracle"],
        )
        blocks += experiment_section(experiment, results, folder / name)
    blocks += commands_section(_commands(found))
    parts = {str(results.settings["title"]): results.settings for results in found.values()}
    first = next(iter(found.values()))
    blocks += settings_section(parts, first.provenance[-1])
    return write_report(folder, REPORT, TITLE, blocks)


def _commands(found: dict[str, Results]) -> dict[str, str]:
    """What makes each part again."""
    commands = {results.settings["title"]: results.command for results in found.values()}
    options = {results.options for results in found.values()}
    if set(found) == set(EXPERIMENTS) and len(options) == 1:
        commands = {"all of it": f"polargrad reproduce all{options.pop()}"} | commands
    return commands
