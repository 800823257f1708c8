"""Preset tiny with each optimizer at its best learning rate: a sweep on one seed, then three seeds.

    python benchmarks/tiny_sweep.py --out runs/sweep --stage sweep
    python benchmarks/tiny_sweep.py --out runs/sweep --stage seeds

All runs have the same number of steps, schedule and text. A finished run is one line of
OUT/results.jsonl and is not run again, a broken-off one goes on from its checkpoint: the script can
be stopped (Ctrl-C) and started as often as is convenient. At the end it prints its results as a
Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import NonFiniteError
from polargrad.language import TrainSettings, open_input, train
from polargrad.language.presets import TINY
from polargrad.records import RecordWriter, provenance, read_records

# Optimizer, beta2 of AdamW, its learning rate for embeddings, head and vectors (None: as lr), and
# the learning rates of the rest. AdamW is swept with both usual values of beta2.
Row = tuple[str, float, float | None]
GRID: dict[Row, list[float]] = {
    ("adamw", 0.95, None): [3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 3e-3],
    ("adamw", 0.999, None): [3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 3e-3],
    ("adamw", 0.999, 3e-3): [1e-3],
    ("adamw", 0.999, 1e-2): [5e-4, 1e-3, 2e-3],
    ("adamw", 0.999, 3e-2): [5e-4, 1e-3, 2e-3],
    ("adamw", 0.999, 1e-1): [1e-3],
    ("muon", 0.95, 1e-3): [3e-3, 5e-3, 1e-2, 2e-2, 4e-2],
    ("muon", 0.95, 3e-3): [2e-2],
    ("muon", 0.95, 1e-2): [1e-2, 2e-2],
    ("muon", 0.95, 3e-2): [5e-3, 1e-2, 2e-2],
    ("muon", 0.95, 1e-1): [1e-2],
    ("polargrad", 0.95, 1e-3): [1e-2, 3e-2, 6e-2, 1e-1, 2e-1],
    ("polargrad", 0.95, 3e-3): [6e-2, 1e-1],
    ("polargrad", 0.95, 1e-2): [3e-2, 6e-2, 1e-1],
    ("polargrad", 0.95, 3e-2): [1.5e-2, 3e-2, 6e-2, 1e-1],
    ("polargrad", 0.95, 1e-1): [3e-2],
}
SWEEP_SEED = 0
SEEDS = [1, 2, 3]


@dataclass(frozen=True)
class Run:
    """One run: what differs between the runs of a table."""

    optimizer: str
    beta2: float
    vector_lr: float | None
    lr: float
    seed: int
    steps: int

    @property
    def row(self) -> Row:
        return (self.optimizer, self.beta2, self.vector_lr)

    @property
    def folder(self) -> str:
        return (
            f"{self.optimizer}-beta2_{self.beta2:g}-lr_{self.lr:g}"
            f"-vector_lr_{_number(self.vector_lr)}-seed_{self.seed}-steps_{self.steps}"
        )


class SweepError(Exception):
    """The script cannot or shall not go on; the message says why."""


class Results:
    """The finished runs of one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out / "results.jsonl"
        self.losses: dict[Run, float] = {}
        self.digest = open_input(TINY).data.digest
        for line in read_records(self.path) if self.path.exists() else []:
            if line["corpus"] != self.digest:
                raise SweepError(f"{self.path} holds results on another text: give another folder")
            self.losses[Run(**line["run"])] = line["validation_loss"]

    def add(self, run: Run) -> None:
        """Take the run, unless it is finished; a run that diverges has an infinite loss."""
        if run in self.losses:
            return
        folder = self.out / run.folder
        settings = TrainSettings(
            **asdict(run), out=folder, resume=(folder / "settings.json").exists()
        )
        outcome: dict[str, Any]
        try:
            result = train(settings)
        except NonFiniteError as error:
            outcome = {"validation_loss": float("inf"), "seconds": None, "error": str(error)}
        else:
            if result.interrupted is not None:
                raise SweepError("interrupted: the same command goes on from here")
            outcome = {"validation_loss": result.validation_loss, "seconds": result.seconds}
        with RecordWriter(self.path) as results:
            results.write(
                {"run": asdict(run), **outcome, "corpus": self.digest, "provenance": provenance()}
            )
        self.losses[run] = outcome["validation_loss"]

    def swept(self, steps: int) -> dict[Row, dict[float, float]]:
        """The losses of the sweep by row of the grid, then by learning rate."""
        curves: dict[Row, dict[float, float]] = defaultdict(dict)
        for run, loss in self.losses.items():
            if run.seed == SWEEP_SEED and run.steps == steps:
                curves[run.row][run.lr] = loss
        return curves


def best_points(results: Results, steps: int, *, accept_edges: bool) -> list[Run]:
    """The best run of the sweep for each optimizer, which must not lie on the edge of its grid."""
    curves = results.swept(steps)
    missing = sorted({row[0] for row in GRID} - {row[0] for row in curves})
    if missing:
        raise SweepError(
            f"no sweep of {', '.join(missing)} with {steps} steps: run --stage sweep first"
        )
    points = []
    for optimizer in dict.fromkeys(row[0] for row in GRID):
        own = {row: curve for row, curve in curves.items() if row[0] == optimizer}
        _, row, lr = min(
            ((loss, row, lr) for row, curve in own.items() for lr, loss in curve.items()),
            key=lambda point: point[0],
        )
        axes = {"lr": (lr, sorted(own[row]))}
        if row[2] is not None:
            axes["vector_lr"] = (row[2], sorted(r[2] for r in own if r[2] is not None))
        for name, (value, grid) in axes.items():
            if value in (grid[0], grid[-1]) and not accept_edges:
                raise SweepError(
                    f"the best {name} of {optimizer}, {value:g}, lies on the edge of its grid "
                    f"{grid}: widen GRID, or the lr of its rows with --stage sweep "
                    f"--grid {optimizer}=LR,..., or give --accept-edges"
                )
        points.append(Run(*row, lr=lr, seed=SWEEP_SEED, steps=steps))
    return points


def _number(value: float | None) -> str:
    return "lr" if value is None else f"{value:g}"


def sweep_table(results: Results, steps: int) -> Iterable[str]:
    """The sweep as Markdown, the best learning rate of each row in bold."""
    yield (
        "| optimizer | beta2 | vector lr "
        f"| validation loss at lr, {steps} steps, seed {SWEEP_SEED} |"
    )
    yield "|---|---|---|---|"
    order = {row: index for index, row in enumerate(GRID)}
    rows = sorted(results.swept(steps).items(), key=lambda item: order.get(item[0], len(order)))
    for (optimizer, beta2, vector_lr), curve in rows:
        best = min(curve.values())
        cells = [
            f"**{lr:g}: {loss:.3f}**" if loss == best else f"{lr:g}: {loss:.3f}"
            for lr, loss in sorted(curve.items())
        ]
        yield f"| {optimizer} | {beta2:g} | {_number(vector_lr)} | {', '.join(cells)} |"


def seeds_table(results: Results, points: Iterable[Run]) -> Iterable[str]:
    """Losses of the seeds as Markdown, with mean and sample standard deviation."""
    heads = "".join(f" seed {seed} |" for seed in SEEDS)
    yield f"| optimizer | beta2 | vector lr | lr |{heads} mean | deviation |"
    yield "|---|---|---|---|" + "---|" * (len(SEEDS) + 2)
    for point in points:
        losses = [results.losses[run] for run in on_seeds(point)]
        cells = "".join(f" {loss:.4f} |" for loss in losses)
        mean, deviation = statistics.mean(losses), statistics.stdev(losses)
        yield (
            f"| {point.optimizer} | {point.beta2:g} | {_number(point.vector_lr)} | {point.lr:g} "
            f"|{cells} "
            f"{mean:.4f} | {deviation:.4f} |"
        )


def on_seeds(point: Run) -> list[Run]:
    """The run of the sweep repeated on the other seeds."""
    return [Run(**{**asdict(point), "seed": seed}) for seed in SEEDS]


def parse_grid(text: str) -> tuple[str, list[float]]:
    """OPTIMIZER=LR,LR,... as the option --grid takes it."""
    optimizer, _, rates = text.partition("=")
    if optimizer not in {row[0] for row in GRID}:
        raise argparse.ArgumentTypeError(f"unknown optimizer {optimizer!r}")
    return optimizer, [float(rate) for rate in rates.split(",")]


def main() -> int:
    """Run the stage that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and results")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--stage", choices=["sweep", "seeds"], default="sweep")
    parser.add_argument(
        "--grid",
        type=parse_grid,
        action="append",
        metavar="OPTIMIZER=LR,...",
        help="sweep only this optimizer, at these learning rates; may be given several times",
    )
    parser.add_argument("--accept-edges", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        results = Results(arguments.out)
        if arguments.stage == "sweep":
            chosen = dict(arguments.grid or [])
            for row, rates in GRID.items():
                if chosen and row[0] not in chosen:
                    continue
                for lr in chosen.get(row[0], rates):
                    results.add(Run(*row, lr=lr, seed=SWEEP_SEED, steps=arguments.steps))
            table = sweep_table(results, arguments.steps)
        else:
            points = best_points(results, arguments.steps, accept_edges=arguments.accept_edges)
            for point in points:
                for run in on_seeds(point):
                    results.add(run)
            table = seeds_table(results, points)
        print("\n".join(table))
    except SweepError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
