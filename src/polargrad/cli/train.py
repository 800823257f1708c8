"""``polargrad train``: pre-train a language model on text."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.cli.exit_codes import INTERRUPTED
from polargrad.language import (
    DEFAULTS,
    PRESETS,
    RECIPES,
    TrainSettings,
    dry_run,
    rate_in_words,
    train,
)
from polargrad.language.data.opening import FIELD
from polargrad.language.evaluation import VALIDATION_WINDOWS
from polargrad.language.ranks import leave
from polargrad.language.recipes import POLAR_METHODS
from polargrad.language.schedules import DECAY_SHARES, SCHEDULES, WARMUP_STEPS
from polargrad.language.settings import PRECISIONS

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
EMBEDDING_LR = tyro.conf.arg(
    metavar="FLOAT",
    help_behavior_hint="(default: "
    + ", ".join(
        f"{name} {defaults.embedding_lr:g}"
        for name, defaults in DEFAULTS.items()
        if defaults.embedding_lr is not None
    )
    + "; the others have none)",
)
METHOD = tyro.conf.arg(
    metavar="{" + ",".join(POLAR_METHODS) + "}",
    help_behavior_hint="(default: "
    + ", ".join(f"{name} {recipe.method}" for name, recipe in RECIPES.items() if recipe.method)
    + ")",
)
BATCH = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the preset's)")
SCHEDULE = tyro.conf.arg(metavar="{" + ",".join(SCHEDULES) + "}")
DECAY_SHARE = tyro.conf.arg(
    metavar="FLOAT",
    help_behavior_hint="(default: "
    + ", ".join(f"{name} {share:g}" for name, share in DECAY_SHARES.items())
    + ")",
)
CLIP = tyro.conf.arg(metavar="NORM", help_behavior_hint="(default: no clipping)")
PRECISION = tyro.conf.arg(metavar="{" + ",".join(PRECISIONS) + "}")
DATA = tyro.conf.arg(
    metavar="PATH|hf:NAME",
    help_behavior_hint="(default: the source of the Python standard library)",
)
TOKENIZER = tyro.conf.arg(
    metavar="PATH",
    help_behavior_hint="(default: bytes for a vocabulary of 256, else a BPE trained on the text)",
)
LIMIT = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")
CACHE = tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: ~/.cache/polargrad)")
STOP_AFTER = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the last step)")
MESH = tyro.conf.arg(metavar="dp=INT,fsdp=INT,tp=INT", help_behavior_hint="(default: copies)")
TRACKER = tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: none; records always)")
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Train:
    """Pre-train a language model on text, and leave its records in a folder.

    The folder receives settings.json, provenance.json, records.jsonl (one record a step), loss.png
    and checkpoints/. Ctrl-C ends the run after the current step; --resume continues it to the bit.
    `torchrun --nproc-per-node R -m polargrad train ...` trains on R devices, with --mesh in parts.
    """

    out: Annotated[Path | None, OUT] = None
    """Folder of the run, new or empty."""
    preset: Annotated[str, PRESET] = "tiny"
    """Sizes of the model and of its batches, or a config.json of transformers, or its folder."""
    batch: Annotated[int | None, BATCH] = None
    """Windows of a micro-batch, on each rank (on each tp of them together)."""
    accumulate: int = 1
    """Micro-batches of a step, on each rank: a step has batch × accumulate × ranks windows."""
    optimizer: Annotated[str, OPTIMIZER] = "polargrad"
    """Who steps what; all but adamw leave vectors to AdamW."""
    steps: int = 400
    """Number of steps of the whole run, which the schedule is made for."""
    seed: int = 0
    """Seed of the initial parameters and of the batches."""
    lr: Annotated[float | None, LR] = None
    """Learning rate."""
    vector_lr: Annotated[float | None, VECTOR_LR] = None
    """Learning rate of AdamW, for vectors, and embeddings and head without a rule of their own."""
    embedding_lr: Annotated[float | None, EMBEDDING_LR] = None
    """Learning rate of embeddings and head where they have a rule of their own."""
    method: Annotated[str | None, METHOD] = None
    """How the polar factor of the hidden matrices is computed."""
    beta2: float = 0.95
    """Second beta of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay of every parameter."""
    schedule: Annotated[str, SCHEDULE] = "linear"
    """Course of the learning rate: linear and wsd fall to zero late, cosine from the warmup on."""
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
    eval_every: int = 100
    """Steps between two measurements of the validation loss."""
    eval_windows: int = VALIDATION_WINDOWS
    """Windows of the validation tokens that it is measured on."""
    watch_every: int = 0
    """Steps between two looks at the spectra of gradients and momenta; 0 for none."""
    checkpoint_every: int = 100
    """Steps between two checkpoints."""
    keep: int = 2
    """Number of checkpoints that are kept, the last ones."""
    stop_after: Annotated[int | None, STOP_AFTER] = None
    """Step after which this session ends with a checkpoint, for a later --resume."""
    mesh: Annotated[str | None, MESH] = None
    """Copies (dp), shards of fully_shard (fsdp) and of tensor parallelism (tp) of the model."""
    tracker: Annotated[str | None, TRACKER] = None
    """A tracker of accelerate that is told what the records say, such as tensorboard or wandb."""
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
        if leave():
            print(
                f"validation loss {result.validation_loss:.4f} nats per {result.unit}, "
                f"{result.steps} of {self.steps} steps in {result.seconds:.0f} s; "
                f"records, figure and checkpoints are in {result.out}"
            )
            if result.steps < self.steps:
                print(f"to continue: {self.resume_command()}", file=sys.stderr)
        return INTERRUPTED if result.interrupted == signal.SIGINT else 0

    def resume_command(self) -> str:
        """The command that continues this run to its end, on as many processes."""
        words = ["polargrad", "train"]
        if os.environ.get("WORLD_SIZE", "1") != "1":
            words = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", *words]
        for field in fields(self):
            value = getattr(self, field.name)
            stays = not isinstance(field.default, bool) and field.name != "stop_after"
            if stays and value != field.default:
                words += ["--" + field.name.replace("_", "-"), str(value)]
        return shlex.join([*words, "--resume"])
