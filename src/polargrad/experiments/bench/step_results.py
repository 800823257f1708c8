"""What the benchmark of a step found: its columns, and its table as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from polargrad.experiments.bench.step_profile import STAGES
from polargrad.experiments.bench.tables import Row, aligned, by, left_out

FIGURE = "step_time.png"
SUFFIX = "_milliseconds"

COLUMNS = (
    "model",
    "scope",  # matrices, vectors (what AdamW steps), or all
    "label",
    "key",
    "origin",  # ours or peer
    "stepped",  # all, or what of it was stepped and counted as often as the model has it
    "milliseconds",
    "lower_quartile",
    "upper_quartile",
    "repetitions",
    "reference",
    "over_reference",
    "over_reference_better_quartile",
    "over_torch_muon",
    "peak_mebibytes",  # beyond parameters, gradients and state
    *(stage + SUFFIX for stage in STAGES),  # of one profiled step, which is slower
    "skipped",
)
MARKS = {"all": "", "some equal blocks": " *", "a matrix of each shape": " **"}
NOTES = {
    "some equal blocks": "*: some of equal blocks were stepped, and their time multiplied, with it "
    "what a step costs however many there are",
    "a matrix of each shape": "**: a matrix of each shape was stepped, and counted as often as the "
    "model has it",
}


def stage_columns(stages: Mapping[str, float]) -> Row:
    """Return the columns of the stages; None for one that the step does not have."""
    return {stage + SUFFIX: stages.get(stage) for stage in STAGES}


def stages_of(row: Row) -> dict[str, float]:
    """Return milliseconds by stage of a row, of those that it has."""
    return {stage: row[stage + SUFFIX] for stage in STAGES if row.get(stage + SUFFIX) is not None}


def table(rows: Sequence[Row], layers: int | None = None) -> str:
    """Return the rows as text: a block for each case, the fastest first, and what was left out.

    Args:
        rows: of all cases.
        layers: how many of equal blocks were stepped, if not all.
    """
    blocks = []
    for title, block in by(rows, "model", "scope").items():
        measured = sorted(
            (row for row in block if not row["skipped"]), key=lambda row: row["milliseconds"]
        )
        present = [s for s in STAGES if any(s in stages_of(row) for row in measured)]
        heads = ("", "ms", "quartiles", "ratio", "/torch Muon", "peak MiB", *present)
        lines = aligned([heads, *(_cells(row, present) for row in measured)])
        about = f"{' '.join(title)} (ratio: time relative to {block[0]['reference']})"
        blocks.append("\n".join([about, *lines]))
    notes = left_out(rows, "model", "scope")
    stepped = {row["stepped"] for row in rows if not row["skipped"]}
    for kind, note in NOTES.items():
        if kind in stepped:
            limited = kind == "some equal blocks" and layers is not None
            notes.append(f"{note} (stepped: at most {layers} of a kind)" if limited else note)
    notes.append(
        "peak MiB: beyond parameters, gradients and state, of what was stepped together; "
        "the stages are milliseconds of one step under the profiler"
    )
    return "\n\n".join([*blocks, "\n".join(notes)])


def _cells(row: Row, present: Iterable[str]) -> tuple[str, ...]:
    over_muon = row["over_torch_muon"]
    stages = stages_of(row)
    return (
        row["label"] + MARKS[row["stepped"]],
        f"{row['milliseconds']:.4g}",
        f"{row['lower_quartile']:.4g}-{row['upper_quartile']:.4g}",
        f"{row['over_reference']:.2f}",
        "" if over_muon is None else f"{over_muon:.2g}",
        f"{row['peak_mebibytes']:.1f}",
        *(f"{stages[stage]:.3g}" if stage in stages else "" for stage in present),
    )
