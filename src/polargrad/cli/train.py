"""``polargrad train``: pre-train a small language model on text."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.cli.exit_codes import INTERRUPTED
from polargrad.language import DEFAULTS, PRESETS, TrainSettings, dry_run, rate_in_words, train

PRESET = tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}|PATH")
OUT = tyro.conf.arg(metavar="PATH", help_behavior_hint="(required but for --dry-run)")
OPTIMIZER = tyro.conf.arg(metavar="{" + ",".join(DEFAULTS) + "}")
LR = tyro.conf.arg(
    metavar="FLOAT",
    help_behavior_hint="(default: "
    + ", ".join(f"{name} {rate_in_words(defaults.lr)}" for name, defaults in DEFAULTS.items())
    + ")",
)
VECTOR_LR = tyro.conf.arg(
    metavar="FLOAT",
    help_behavior_hint="(default: "
    + ", ".join(
        f"{name} {defaults.vector_lr:g}"
        for name, defaults in DEFAULTS.items()
        if defaults.vector_lr is not None
    )
    + ", adamw as --lr)",
)
DATA = tyro.conf.arg(
    metavar="PATH", help_behavior_hint="(default: the source of the Python standard library)"
)
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Train:
    """Pre-train a small language model on text, and leave its records in a folder.

    The folder receives settings.json, provenance.json, records.jsonl (one record a step), loss.png
    and checkpoint.pt. Ctrl-C ends the run after the current step; --resume continues it to the bit.
    """

    out: Annotated[Path | None, OUT] = None
    """Folder of the run, new or empty."""
    preset: Annotated[str, PRESET] = "tiny"
    """Sizes of the model and of its batches, or a config.json of transformers, or its folder."""
    optimizer: Annotated[str, OPTIMIZER] = "polargrad"
    """Rule of the hidden matrices; adamw is the rule of everything."""
    steps: int = 400
    """Number of steps; over the last 40 % of them the learning rate falls to zero."""
    seed: int = 0
    """Seed of the initial parameters and of the batches."""
    lr: Annotated[float | None, LR] = None
    """Learning rate."""
    vector_lr: Annotated[float | None, VECTOR_LR] = None
    """Learning rate of AdamW for embeddings, head and vectors."""
    beta2: float = 0.95
    """Second beta of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter."""
    data: Annotated[Path | None, DATA] = None
    """A UTF-8 text file, or a folder of them, to train on."""
    eval_every: int = 100
    """Steps between two measurements of the validation loss."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""
    resume: Annotated[bool, FLAG] = False
    """Continue the run in the folder; the other options must be those it was started with."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the run in the folder and start again."""
    dry_run: Annotated[bool, FLAG] = False
    """Say what the run would take (parameters, who steps them, memory, FLOPs), and do nothing."""

    def run(self) -> int:
        """Train, or say what it would take; say what came of it, and return the exit code."""
        given = asdict(self)
        if given.pop("dry_run"):
            print(dry_run(TrainSettings(**given)))
            return 0
        if self.out is None:
            raise ValueError("out must be given: --out FOLDER, or --dry-run to see what it takes")
        result = train(TrainSettings(**given))
        print(
            f"validation loss {result.validation_loss:.4f} nats per byte, "
            f"{result.steps} of {self.steps} steps in {result.seconds:.0f} s; "
            f"records, figure and checkpoint are in {result.out}"
        )
        if result.interrupted is not None and result.steps < self.steps:
            print(f"to continue: {self.resume_command()}", file=sys.stderr)
        return INTERRUPTED if result.interrupted == signal.SIGINT else 0

    def resume_command(self) -> str:
        """The command that continues this run."""
        words = ["polargrad", "train"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not isinstance(field.default, bool):
                words += ["--" + field.name.replace("_", "-"), str(value)]
        return shlex.join([*words, "--resume"])
