"""The report: what was run, what came of it, and which claims of the paper hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.claims import Claim
from polargrad.experiments.experiment import Experiment
from polargrad.experiments.figures import figure_file
from polargrad.experiments.language_results import LanguageRun
from polargrad.experiments.published import Comparison, comparisons
from polargrad.experiments.results import Results
from polargrad.language.optimizers import rate_in_words
from polargrad.records.document import (
    Block,
    Code,
    Heading,
    Paragraph,
    Picture,
    Table,
    write_html,
    write_markdown,
)

# What a byte costs that is guessed among 256: the loss before any training.
UNTRAINED = "ln 256 = 5.545"

_ORACLES = {
    "published": "the published polar factor, two steps of QDWH, which has not converged: the "
    "published learning rates are tuned to that",
    "exact": "an exact polar factor",
    "tolerance": "a polar factor at training accuracy (tol = 0.11)",
}
_ERAS = {
    "reference": "today's settings of the published code",
    "paper": "the settings of the published code when the paper was written",
}


def write_report(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> Path:
    """Write the report as ``NAME.html``, which holds its pictures, and ``NAME.md``.

    Returns:
        The path of the page.
    """
    page = folder / f"{name}.html"
    write_html(page, title, blocks)
    write_markdown(folder / f"{name}.md", title, blocks)
    return page


# How the claims on matrix problems are judged.
CLAIMS_NOTE = (
    "Medians over the seeds, and ranges in brackets. Steps are counted to where the sampled metric "
    "first falls below the bound."
)


def claims_section(claims: Sequence[Claim], note: str = CLAIMS_NOTE) -> list[Block]:
    """Return the table of claims, one row each, with a word on how they are judged."""
    rows = [
        [claim.claim, claim.evidence, claim.judgement, f"`{claim.command}`"] for claim in claims
    ]
    return [
        Heading("The paper's claims"),
        Paragraph(note),
        Table(["claim", "our evidence", "verdict", "command"], rows, text=True),
    ]


def experiment_section(experiment: Experiment, results: Results, folder: Path) -> list[Block]:
    """Return what an experiment came to: its table, its figures, and the published code's values.

    Args:
        experiment: its figures and captions.
        results: what ``folder`` holds.
        folder: of the experiment.
    """
    settings, seed = results.settings, results.seeds[0]
    seeds = ", ".join(map(str, results.seeds))
    blocks: list[Block] = [
        Heading(f"{settings['title']} ({settings['section']})"),
        Paragraph(
            f"{settings['formula']}. {_sentence(_ERAS[settings['era']])}; runs with QDWH use "
            f"{_ORACLES[settings['oracle']]}. Version: {settings['version']}, "
            f"{settings['steps']} steps, seeds {seeds}. After the last step of each run:"
        ),
        _summary_table(results),
        *_constants(results),
        *(
            Picture(
                folder / figure_file(figure.name, seed),
                f"{figure.caption} Seed {seed}.",
                narrow=len(figure.panels) == 1,
            )
            for figure in experiment.figures
        ),
    ]
    return [*blocks, *_published_section(results)]


def _summary_table(results: Results) -> Table:
    """A row a run: settings, median and range of the metric, time of a step."""
    rows = []
    for row in results.summary():
        finals = [row[key] for key in ("median", "least", "largest")]
        median, least, largest = ("diverged" if v == float("inf") else f"{v:.3g}" for v in finals)
        timed = "update_ms" in row
        rows.append(
            [
                row["label"],
                "–" if row["lr"] is None else f"{row['lr']:g}",
                "" if row["decay"] == 1.0 else f"× {row['decay']:g} / 25",
                str(row["steps"]),
                median,
                "" if least == largest else f"{least} … {largest}",
                f"{row['gradient_ms']:.2f}" if timed else "",
                f"{row['update_ms']:.2f}" if timed else "",
            ]
        )
    metric = results.settings["metric_title"]
    heads = [
        "run",
        "lr",
        "decay",
        "steps",
        metric,
        "range over seeds",
        "gradient, ms",
        "update, ms",
    ]
    return Table(heads, rows)


# How the report names what is known beforehand.
_CONSTANTS = {
    "smoothness": "L",
    "strong_convexity": "μ",
    "condition_number": "κ_H",
    "optimum": "f*",
    "optimum_per_entry": "least loss per entry",
}


def _constants(results: Results) -> list[Block]:
    """What is known of each seed's problem beforehand."""
    rows = [
        [seed, *(f"{value:.6g}" for value in values.values())]
        for seed, values in results.constants.items()
        if values
    ]
    if not rows:
        return []
    names = [_CONSTANTS[name] for name in next(iter(results.constants.values()))]
    return [Paragraph("Known beforehand, in float64:"), Table(["seed", *names], rows)]


def _published_section(results: Results) -> list[Block]:
    """Our values beside those of the published code, where it was run."""
    compared = comparisons(results)
    if not compared:
        return []
    agree = sum(c.agrees for c in compared)
    worst = [c for c in compared if not c.agrees]
    shown = worst or [c for c in compared if c.step in (10, 100, 1000)]
    rows = [
        [
            c.label,
            str(c.step),
            f"{c.published:.4g}",
            f"{c.ours:.4g}",
            f"{c.deviation:+.2%}",
            _allowed(c),
        ]
        for c in shown
    ]
    what = "those that do not" if worst else "some of them"
    return [
        Heading("Against the published code", 3),
        Paragraph(
            f"{agree} of {len(compared)} values of seed 42 agree: within 2 % up to step 100, 5 % "
            "to step 1000, a factor of 2 after that; and as far as one rounding of the start "
            "leaves the value where a run begins beyond its stability limit, turns at a plateau or "
            f"swings. Below the resolution of float32 nothing is compared. Here are {what}:"
        ),
        Table(["run", "step", "published", "here", "deviation", "allowed"], rows),
    ]


def _allowed(comparison: Comparison) -> str:
    """What counts as agreement, in words."""
    if not comparison.resolved:
        return "both at rounding"
    allowed = comparison.allowed
    return f"{allowed - 1:.0%}" if allowed < 2 else f"a factor of {allowed:g}"


def language_section(runs: Sequence[LanguageRun], figure: Path) -> list[Block]:
    """Return the table and the figure of training runs."""
    best = min(run.validation[-1][1] for run in runs)
    rows = [
        [
            run.optimizer,
            rate_in_words(run.settings["lr"]),
            "" if run.settings["vector_lr"] is None else f"{run.settings['vector_lr']:g}",
            f"{run.validation[-1][1]:.4f}",
            f"{run.validation[-1][1] - best:+.4f}",
            f"{1e3 * run.seconds_per_step:.0f}",
        ]
        for run in runs
    ]
    first = runs[0]
    preset = first.settings["preset"]
    size = f"{first.settings['windows_per_step']} × {preset['context']}"
    return [
        Heading("A small language model"),
        Paragraph(
            f"A Qwen2-style transformer of {preset['layers']} layers and width {preset['width']}, "
            f"trained on bytes of the Python standard library for {first.settings['steps']} steps "
            f"of {size} bytes, seed {first.settings['seed']}. "
            "PolarGrad and Muon step the hidden matrices; embedding, head and vectors take AdamW "
            f"in the same optimizer. Losses in nats per byte (untrained: {UNTRAINED}):"
        ),
        Table(
            ["optimizer", "lr", "lr of vectors", "validation loss", "to the best", "ms a step"],
            rows,
        ),
        Picture(
            figure,
            "Losses of the optimizers, each at the best learning rate of a sweep on one seed.",
        ),
        Paragraph(
            "One seed of one small model on one corpus: docs/results.md has three seeds and the "
            "sweep.",
            note=True,
        ),
    ]


def commands_section(commands: dict[str, str]) -> list[Block]:
    """Return what makes each part again, by the part's name."""
    lines = "\n".join(f"# {what}\n{command}" for what, command in commands.items())
    return [Heading("To make this again"), Code(lines)]


def settings_section(parts: dict[str, dict[str, Any]], where: dict[str, Any]) -> list[Block]:
    """Return the settings of each part, and the versions and the machine that made them."""
    keys = (
        "polargrad", "commit", "torch", "python", "processor", "cores", "threads", "time",
    )  # fmt: skip
    versions = [[key, str(where[key])] for key in keys if key in where]
    details = [
        Code(json.dumps(data, indent=2, ensure_ascii=False), summary=name)
        for name, data in parts.items()
    ]
    return [Heading("Settings and versions"), Table(["what", "value"], versions), *details]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
