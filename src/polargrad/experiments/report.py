"""The report: one HTML file that holds everything it shows."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.language_results import LOSS_FIGURE, LanguageRun, draw_language
from polargrad.experiments.quadratic_figures import GAP_FIGURE, NUCLEAR_NORM_FIGURE
from polargrad.experiments.quadratic_published import comparisons
from polargrad.experiments.quadratic_results import Results
from polargrad.records import write_atomically
from polargrad.records.figures import data_uri

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { width: 100%; height: auto; background: white; border-radius: 4px; }
figure { margin: 1.5rem 0; } figure.narrow { max-width: 36rem; }
figcaption, .note { opacity: .8; font-size: .9rem; }
pre { overflow-x: auto; padding: .8rem; background: #8882; border-radius: 4px; }
@media print { body { max-width: none; } figure, table { break-inside: avoid; } }
""".strip()

# What a byte costs that is guessed among 256: the loss before any training.
UNTRAINED = "ln 256 = 5.545"


def write_report(
    path: Path,
    *,
    quadratic: Path,
    language: Sequence[Path],
    commands: Mapping[str, str],
) -> None:
    """Write the report of an experiment and of training runs, read from their folders, to ``path``.

    The file refers to nothing outside itself: figures are part of it.

    Args:
        path: of the HTML file.
        quadratic: the folder of the quadratic experiment.
        language: the folders of the training runs.
        commands: what makes each part again, by the part's name.

    Raises:
        RunFolderError: if a folder does not hold what it should.
    """
    results = Results.read(quadratic)
    runs = [LanguageRun.read(folder) for folder in language]
    draw_language(runs, path.parent / LOSS_FIGURE)
    body = [
        "<h1>polargrad: a demonstration</h1>",
        "<p>PolarGrad steps along the polar factor of the matrix gradient, scaled by its nuclear "
        "norm; Muon is the same without the scale; Adam treats the matrix as a long vector. Below, "
        "all three on a strongly convex matrix problem, and on a small language model.</p>",
        _quadratic_section(results, quadratic),
        _language_section(runs, path.parent / LOSS_FIGURE),
        _commands_section(commands),
        _settings_section(results, runs),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>polargrad: a demonstration</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_atomically(path, lambda file: file.write(page.encode()))


def _quadratic_section(results: Results, folder: Path) -> str:
    """The table, the comparison with the published code and the figures of the experiment."""
    settings = results.settings
    version = {"full": "as published", "quick": "the quick version: fewer runs, fewer steps"}
    rows = [
        [
            row["label"],
            f"{row['lr']:g}",
            "constant" if row["decay"] == 1.0 else f"× {row['decay']:g} every 25 steps",
            "diverged" if row["diverged"] else f"{row['gap']:.3g}",
            f"{row['residual_condition']:.3g}",
            f"{row['gradient_condition']:.3g}",
            f"{1e3 * row['seconds_per_step']:.1f}",
        ]
        for row in results.summary()
    ]
    heads = ["run", "lr", "schedule", "f − f*", "κ₂ residual", "κ₂ gradient", "ms a step"]
    steps, seed = settings["steps"], settings["seed"]
    return "\n".join(
        [
            "<h2>Matrix quadratic regression</h2>",
            "<p>min ½‖A X B − C‖² with Gaussian A (1000 × 500), B (100 × 250) and C (1000 × 250), "
            "section 6.1 of the paper, with its published learning rates "
            f"({_text(version.get(settings['version'], settings['version']))}; {steps} steps, seed "
            f"{seed}). PolarGrad uses the published polar factor, two steps of QDWH, which has "
            "not converged: its learning rates are tuned to that. After the last step:</p>",
            _table(heads, rows),
            _figure(
                folder / GAP_FIGURE,
                "Objective gap, evaluated in float64, and the condition numbers of the residual "
                "and of the gradient (running averages). Gaps near 1e-8 are the resolution of "
                "float32; what is not positive is left out of a logarithmic axis.",
            ),
            _figure(
                folder / NUCLEAR_NORM_FIGURE,
                "Nuclear norm of the gradient, PolarGrad's scale.",
                narrow=True,
            ),
            _published(results),
        ]
    )


def _published(results: Results) -> str:
    """Our gaps beside those of the published code."""
    rows = [
        [c.label, str(c.step), f"{c.published:.4g}", f"{c.ours:.4g}", f"{c.deviation:+.1%}"]
        for c in comparisons(results)
    ]
    if not rows:
        return '<p class="note">The published code was run with seed 42 only.</p>'
    return (
        "<h3>Against the published code</h3>\n"
        + _table(["run", "step", "published f − f*", "here", "deviation"], rows)
        + '\n<p class="note">PolarGrad with a decaying rate begins beyond its stability limit, '
        "Adam swings at the end, and gaps near 1e-8 are at the resolution of float32: there "
        "rounding decides the digits, and only the order of magnitude means something.</p>"
    )


def _language_section(runs: Sequence[LanguageRun], figure: Path) -> str:
    """The table and the figure of the training runs."""
    best = min(run.validation[-1][1] for run in runs)
    rows = [
        [
            run.optimizer,
            f"{run.settings['lr']:g}",
            "" if run.settings["vector_lr"] is None else f"{run.settings['vector_lr']:g}",
            f"{run.validation[-1][1]:.4f}",
            f"{run.validation[-1][1] - best:+.4f}",
            f"{1e3 * run.seconds_per_step:.0f}",
        ]
        for run in runs
    ]
    heads = ["optimizer", "lr", "lr of vectors", "validation loss", "to the best", "ms a step"]
    first = runs[0]
    preset = first.settings["preset"]
    return "\n".join(
        [
            "<h2>A small language model</h2>",
            f"<p>A Qwen2-style transformer of {preset['layers']} layers and width "
            f"{preset['width']}, trained on bytes of the Python standard library for "
            f"{first.settings['steps']} steps of {preset['batch']} × {preset['context']} bytes, "
            f"seed {first.settings['seed']}. PolarGrad and Muon step the hidden matrices; "
            "embedding, head and vectors take AdamW in the same optimizer. Losses in nats per "
            f"byte (untrained: {UNTRAINED}):</p>",
            _table(heads, rows),
            _figure(
                figure,
                "Losses of the three optimizers, each at the best learning rate of a "
                "sweep on one seed.",
            ),
            '<p class="note">One seed of one small model on one corpus: docs/results.md has three '
            "seeds and the sweep.</p>",
        ]
    )


def _commands_section(commands: Mapping[str, str]) -> str:
    lines = "\n".join(f"# {what}\n{command}" for what, command in commands.items())
    return f"<h2>To make this again</h2>\n<pre>{_text(lines)}</pre>"


def _settings_section(results: Results, runs: Sequence[LanguageRun]) -> str:
    """Settings and versions, as the folders keep them."""
    parts = {
        "Quadratic regression": {**results.settings, "provenance": results.provenance},
        **{
            f"Language model, {run.optimizer}": {**run.settings, "provenance": run.provenance}
            for run in runs
        },
    }
    details = "\n".join(
        f"<details><summary>{_text(name)}</summary>"
        f"<pre>{_text(json.dumps(data, indent=2, ensure_ascii=False))}</pre></details>"
        for name, data in parts.items()
    )
    where = results.provenance
    versions = [
        [key.replace("_", " "), str(where[key])]
        for key in (
            "polargrad",
            "commit",
            "torch",
            "python",
            "processor",
            "cores",
            "threads",
            "time",
        )
        if key in where
    ]
    return f"<h2>Settings and versions</h2>\n{_table(['what', 'value'], versions)}\n{details}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _figure(path: Path, caption: str, *, narrow: bool = False) -> str:
    source = data_uri(path.read_bytes())
    kind = ' class="narrow"' if narrow else ""
    return (
        f'<figure{kind}><img src="{source}" alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))
