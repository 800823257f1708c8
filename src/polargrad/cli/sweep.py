"""``polargrad sweep``: optimizers compared on a language model, each at its best learning rates."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.cli.exit_codes import INTERRUPTED
from polargrad.cli.train import (
    BATCH,
    CACHE,
    CLIP,
    DATA,
    DECAY_SHARE,
    FLAG,
    LIMIT,
    PRECISION,
    PRESET,
    SCHEDULE,
    TOKENIZER,
)
from polargrad.experiments.pretraining.plan import plan_text, shares
from polargrad.experiments.pretraining.protocol import BOTH, LR, SweepProtocol
from polargrad.experiments.pretraining.report import Sweep as SweepOfFolder
from polargrad.experiments.pretraining.report import write_sweep_report
from polargrad.experiments.pretraining.results import SweepResults
from polargrad.experiments.pretraining.run import run_sweep, shared
from polargrad.language import RECIPES
from polargrad.language.data.opening import FIELD
from polargrad.language.evaluation import VALIDATION_WINDOWS
from polargrad.language.schedules import WARMUP_STEPS
from polargrad.records import RunFolder
from polargrad.records.run_folder import SETTINGS

OPTIMIZERS = tyro.conf.arg(metavar="{" + ",".join(RECIPES) + "}[:METHOD] ...")
RATES = tyro.conf.arg(metavar="{" + f"{BOTH},{LR}" + "}")
CENTRES = tyro.conf.arg(
    metavar="NAME.RATE=FLOAT ...", help_behavior_hint="(default: the defaults of polargrad train)"
)
EVAL_EVERY = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: a twelfth of the steps)")
# A rung at a quarter and at a half of the steps is a multiple of a twelfth of them.
EVALUATIONS = 12
# Options that are settings of every run.
OF_TRAINING = (
    *("preset", "batch", "accumulate", "beta2", "weight_decay", "schedule", "warmup"),
    *("decay_share", "clip", "precision", "data", "tokenizer", "field", "limit", "cache"),
    "eval_windows",
)
# Options of the search, which the protocol takes as they are.
OF_SEARCH = (
    *("optimizers", "steps", "watch_every", "sweep_seed", "seeds", "points", "factor", "rungs"),
    *("rates", "passes", "extensions"),
)


@dataclass(frozen=True)
class Sweep:
    """Find each optimizer's learning rates with the same budget, and run it there on several seeds.

    Two rates of each are searched, of the hidden matrices and then of embedding and head, on grids
    that are halved: all points go to a quarter of the steps, the better half to a half, the better
    half of these to the end. Where the best point is at the edge of a grid, the grid is extended.
    What was run is not run again, so an interrupted call continues, and a second one does nothing
    but write the report: report.html, report.md, sweep.json, sessions.csv and figures.
    """

    out: Path = Path("runs/sweep")
    """Folder of the sweep, new, empty, or of a sweep of such runs."""
    optimizers: Annotated[tuple[str, ...], OPTIMIZERS] = (
        "adamw",
        "muon",
        "polarmuon",
        "muon-polarsgdm",
    )
    """Who takes part; NAME:METHOD computes the polar factors of its hidden matrices so."""
    preset: Annotated[str, PRESET] = "small"
    """Sizes of the model and of its batches, or a config.json of transformers, or its folder."""
    steps: int = 300
    """Number of steps of a whole run."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the runs at the best learning rates."""
    sweep_seed: int = 0
    """Seed of the search."""
    rates: Annotated[str, RATES] = BOTH
    """Search both rates, or the first alone."""
    points: int = 5
    """Points of a grid, an odd number."""
    factor: float = 2.0
    """Between neighbours in a grid."""
    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Shares of the steps at which the worse half stops."""
    passes: int = 1
    """How often the rates are searched one after the other."""
    extensions: int = 4
    """Points by which a grid is extended at most."""
    centres: Annotated[tuple[str, ...], CENTRES] = ()
    """Other centres of the grids, as muon.lr=0.02."""
    batch: Annotated[int | None, BATCH] = None
    """Windows of a micro-batch."""
    accumulate: int = 1
    """Micro-batches of a step."""
    beta2: float = 0.95
    """Second beta of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter."""
    schedule: Annotated[str, SCHEDULE] = "linear"
    """Course of the learning rate over a whole run."""
    warmup: int = WARMUP_STEPS
    """Steps in which the learning rate grows to its value."""
    decay_share: Annotated[float | None, DECAY_SHARE] = None
    """Share of the steps in which the learning rate falls."""
    clip: Annotated[float | None, CLIP] = None
    """Largest norm of all gradients together, beyond which they are scaled down."""
    precision: Annotated[str, PRECISION] = "no"
    """Products of the model: no is float32; auto is bf16 on a GPU with units for it, else no."""
    data: Annotated[str | None, DATA] = None
    """Text, JSONL, Parquet or .bin shards, a file or a folder, or a data set of Hugging Face."""
    tokenizer: Annotated[Path | None, TOKENIZER] = None
    """A tokenizer.json, or its folder."""
    field: str = FIELD
    """Field or column of a record that holds the text."""
    limit: Annotated[int | None, LIMIT] = None
    """Number of tokens of the text that are enough."""
    cache: Annotated[Path | None, CACHE] = None
    """Folder in which tokens and tokenizers are kept for the next run."""
    eval_every: Annotated[int | None, EVAL_EVERY] = None
    """Steps between two measurements of the validation loss."""
    eval_windows: int = VALIDATION_WINDOWS
    """Windows of the validation tokens that it is measured on."""
    watch_every: int = 0
    """Steps between two looks at spectra, in the runs on the seeds; 0 for none."""
    keep_checkpoints: Annotated[bool, FLAG] = False
    """Keep the checkpoints of runs that no session will continue."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the sweep in the folder and start again."""
    dry_run: Annotated[bool, FLAG] = False
    """Print what is left to run, and do nothing."""

    def run(self) -> int:
        """Run what is left, write the report, say where it is, and return the exit code."""
        protocol = self.protocol()
        if self.dry_run:
            print(self.plan(protocol))
            return 0
        done = run_sweep(
            self.out,
            protocol,
            keep_checkpoints=self.keep_checkpoints,
            overwrite=self.overwrite,
        )
        sweep = SweepOfFolder.of(self.out, protocol, self.command(out=False))
        if sweep.results.losses:
            print(f"report: {write_sweep_report(sweep)}")
        if done.interrupted is not None:
            print(f"to continue: {self.command()}", file=sys.stderr)
            return INTERRUPTED if done.interrupted == signal.SIGINT else 0
        if not done.sessions:
            print("nothing to do: all is finished")
        return 0

    def protocol(self) -> SweepProtocol:
        """The protocol that the options ask for."""
        training = {name: getattr(self, name) for name in OF_TRAINING}
        return SweepProtocol(
            eval_every=self.eval_every or max(1, self.steps // EVALUATIONS),
            centres=dict(map(_centre, self.centres)),
            training={n: str(v) if isinstance(v, Path) else v for n, v in training.items()},
            **{name: getattr(self, name) for name in OF_SEARCH},
        )

    def plan(self, protocol: SweepProtocol) -> str:
        """What is left to run, as a table; of another sweep's folder nothing can be said."""
        if (self.out / SETTINGS).exists() and not self.overwrite:
            RunFolder.check(self.out, shared(protocol), resume=True)
        results = SweepResults(self.out)
        settings = protocol.settings(protocol.at(protocol.entrants[0], {}, protocol.sweep_seed))
        preset = settings.model_preset
        tokens = preset.batch * preset.context * settings.accumulate
        return plan_text(shares(protocol, results.losses, results.seconds_per_step), tokens)

    def command(self, *, out: bool = True) -> str:
        """The command that goes on with this sweep, or, without its folder, makes it again."""
        words = ["polargrad", "sweep"]
        for field in fields(self):
            value = getattr(self, field.name)
            silent = value == field.default or isinstance(field.default, bool)
            if silent or (field.name == "out" and not out):
                continue
            words.append("--" + field.name.replace("_", "-"))
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
        return shlex.join(words)


def _centre(text: str) -> tuple[str, float]:
    """NAME.RATE=VALUE as the option takes it."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"centres must be given as NAME.RATE=FLOAT, got {text!r}") from None
