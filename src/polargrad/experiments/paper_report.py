"""The report of the paper's experiments: claims first, then what each part came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import Claim, Evidence, judge
from polargrad.experiments.insights.figures import (
    CURVATURE_FIGURE,
    INSTABILITY_FIGURE,
    SPEED_FIGURE,
    WARMUP_FIGURE,
)
from polargrad.experiments.insights.verdict import read_insights
from polargrad.experiments.pretraining.report import SUMMARY, Sweep, results_section
from polargrad.experiments.pretraining.verdicts import COMMAND, judge_pretraining
from polargrad.experiments.report import (
    claims_section,
    commands_section,
    experiment_section,
    settings_section,
    write_report,
)
from polargrad.experiments.reproduce import EXPERIMENTS, choose, finished_experiments
from polargrad.experiments.results import Results
from polargrad.experiments.sensitivity.results import read_sensitivity
from polargrad.experiments.theory.run import read_checks
from polargrad.records import read_json
from polargrad.records.document import Block, Heading, Paragraph, Picture, Table

REPORT = "report"
TITLE = "PolarGrad on matrix problems: which claims hold"
_TITLE_WITHIN = 4096  # bytes of the beginning of a report
_INSIGHTS = {
    INSTABILITY_FIGURE: "Adam: how uneven gradients and updates are, and what becomes of the loss.",
    SPEED_FIGURE: "Losses and the spread of singular values under each optimizer.",
    WARMUP_FIGURE: "Validation loss with warmup and without.",
    CURVATURE_FIGURE: "The spread of the Hessian of single layers beside that of their gradients.",
}


@dataclass(frozen=True)
class Sources:
    """The folders of the commands whose results a report brings together.

    Args:
        reproduce: of ``polargrad reproduce``.
        theory: of ``polargrad theory``, or None to leave it out.
        sensitivity: of ``polargrad sensitivity``, or None.
        insights: of ``polargrad insights``, or None.
        pretraining: of ``polargrad sweep``, or None.
    """

    reproduce: Path
    theory: Path | None = None
    sensitivity: Path | None = None
    insights: Path | None = None
    pretraining: Path | None = None


def check_report(folder: Path) -> None:
    """Refuse a folder whose report is not one of these.

    Raises:
        RunFolderError: if ``report.html`` or ``report.md`` is there and has another title.
    """
    for path in (folder / f"{REPORT}.html", folder / f"{REPORT}.md"):
        if not path.exists():
            continue
        start = path.read_bytes()[:_TITLE_WITHIN].decode(errors="replace")
        if TITLE not in start:
            raise RunFolderError(
                f"{str(path)!r} is not a report of this command: move it, or name another folder"
            )


def write_paper_report(folder: Path, sources: Sources) -> Path:
    """Write ``report.html`` and ``report.md`` into ``folder``; return the path of the page.

    A part whose folder holds nothing finished is left out, and its claims are not judged.

    Raises:
        RunFolderError: if no experiment is finished, or the folder has a report of another kind.
    """
    check_report(folder)
    found = finished_experiments(sources.reproduce)
    if not found:
        raise RunFolderError(f"{str(sources.reproduce)!r} holds no finished experiment")
    judged, parts = _judged_elsewhere(sources)
    quick = any(results.settings["version"] == "quick" for results in found.values())
    blocks: list[Block] = [
        Paragraph(
            "The matrix experiments of arXiv 2505.21799 (Lau, Long and Su), repeated with the "
            "published settings, beside what a user would pick instead. Steps are deterministic; "
            "times are medians of one run on one machine, and mean something beside each other "
            "alone."
        )
    ]
    if quick:
        blocks.append(
            Paragraph(
                "This is the quick version, of fewer steps and one seed: its verdicts say what "
                "they say of those steps; the full version decides."
            )
        )
    blocks += claims_section(judge(Evidence(found, judged)))
    for name, results in found.items():
        (experiment,) = choose(
            [name],
            quick=results.settings["version"] == "quick",
            era=results.settings["era"],
            oracle=results.settings["oracle"],
        )
        blocks += experiment_section(experiment, results, sources.reproduce / name)
    blocks += [*parts, *commands_section(_commands(found, sources))]
    settings = {str(results.settings["title"]): results.settings for results in found.values()}
    blocks += settings_section(settings, next(iter(found.values())).provenance[-1])
    return write_report(folder, REPORT, TITLE, blocks)


def _judged_elsewhere(sources: Sources) -> tuple[list[Claim], list[Block]]:
    """Claims and sections of theory, sensitivity and insights, as far as there are results."""
    claims: list[Claim] = []
    blocks: list[Block] = []
    for folder, read in (
        (sources.theory, _theory),
        (sources.sensitivity, _sensitivity),
        (sources.insights, _insights),
    ):
        if folder is None:
            continue
        try:
            more_claims, more_blocks = read(folder)
        except RunFolderError:
            continue
        claims += more_claims
        blocks += more_blocks
    more_claims, more_blocks = _pretraining(sources.pretraining)
    return [*claims, *more_claims], [*blocks, *more_blocks]


def _theory(folder: Path) -> tuple[list[Claim], list[Block]]:
    checks = read_checks(folder)
    pictures = [
        Picture(folder / check.figure, check.statement, narrow=len(check.panels) == 1)
        for check in checks
    ]
    return [check.claim for check in checks], [Heading("Theory, checked at each step"), *pictures]


def _sensitivity(folder: Path) -> tuple[list[Claim], list[Block]]:
    rows = read_sensitivity(folder)
    cells = [
        [
            f"{row.experiment}: {row.label}",
            row.oracle_label or "–",
            "–" if row.published_lr is None else f"{row.published_lr:g}",
            f"{row.best_lr:.3g}",
            f"{row.best_value:.3g}",
            row.limit_in_words,
            "–" if row.theory_limit is None else f"{row.theory_limit:.3g}",
            f"{row.width:.3g}",
        ]
        for row in rows
    ]
    heads = [
        "optimizer", "oracle", "published lr", "best lr", "best value", "stable up to", "theory",
        "width of the good region",
    ]  # fmt: skip
    blocks: list[Block] = [
        Heading("How much the learning rate matters"),
        Paragraph(
            "One seed, fewer steps than above. The good region holds the learning rates whose "
            "final value is within 10 times of the best; its width is the largest over the "
            "smallest of them. With a star nothing blows up: the value comes to rest at a level "
            "that grows with the learning rate, at that of the start there."
        ),
        Table(heads, cells),
        *(
            Picture(path, f"Final values of {path.parent.name} against the learning rate.")
            for path in sorted(folder.glob("*/*.png"))
        ),
    ]
    return [], blocks


def _insights(folder: Path) -> tuple[list[Claim], list[Block]]:
    verdicts = read_insights(folder)
    blocks: list[Block] = [
        Heading("What the paper's frame explains, on a small language model"),
        *(
            Picture(folder / name, caption)
            for name, caption in _INSIGHTS.items()
            if (folder / name).exists()
        ),
    ]
    return [verdict.as_claim() for verdict in verdicts], blocks


def _pretraining(folder: Path | None) -> tuple[list[Claim], list[Block]]:
    """The claims on language models, which are not tested where there was no sweep."""
    if folder is None or not (folder / SUMMARY).exists():
        return judge_pretraining([]), []
    sweep = Sweep.read(folder)
    if not any(candidate.curves for candidate in sweep.candidates):
        return sweep.claims, []
    return sweep.claims, [
        Heading("Language-model pre-training"),
        Paragraph(f"{sweep.scale}; the report of `polargrad sweep` has the search."),
        *results_section(sweep, heading=False),
    ]


def _commands(found: dict[str, Results], sources: Sources) -> dict[str, str]:
    """What makes each part again."""
    commands = {results.settings["title"]: results.command for results in found.values()}
    options = {results.options for results in found.values()}
    if set(found) == set(EXPERIMENTS) and len(options) == 1:
        commands = {"all experiments": f"polargrad reproduce all{options.pop()}"} | commands
    more = {
        "the theory": (sources.theory, "polargrad theory"),
        "the learning rates": (sources.sensitivity, "polargrad sensitivity all"),
        "the language model": (sources.insights, "polargrad insights"),
        "language-model pre-training": (sources.pretraining, _sweep_command(sources.pretraining)),
    }
    commands |= {what: command for what, (folder, command) in more.items() if folder is not None}
    return commands


def _sweep_command(folder: Path | None) -> str:
    """The command of the sweep in a folder, or that of the one that is meant."""
    if folder is None or not (folder / SUMMARY).exists():
        return COMMAND
    return str(read_json(folder / SUMMARY).get("command", COMMAND))
