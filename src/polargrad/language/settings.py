"""What a training run is: its settings, checked when they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.language.corpus import Corpus
from polargrad.language.models import ModelPreset
from polargrad.language.optimizers import DEFAULTS
from polargrad.language.presets import preset_of

# torch's generator takes 32 bits of a seed: two larger ones could be the same run.
SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of one training run.

    Args:
        optimizer: "polargrad", "muon" or "adamw".
        steps: number of steps; the learning rate reaches zero at their end.
        out: the folder that the run writes, new or empty; None for a dry run alone.
        preset: name of the model and its batches, path of a configuration of transformers, or a
            :class:`~polargrad.language.ModelPreset`.
        seed: seed of the initial parameters and of the batches, 0 to 2³² − 1.
        lr: learning rate; None takes the optimizer's default.
        vector_lr: learning rate of embeddings, head and vectors; None takes the optimizer's
            default, which for adamw is ``lr``.
        beta2: second beta of AdamW, in [0, 1).
        weight_decay: decoupled weight decay, for every parameter.
        data: a UTF-8 text file or a folder of them; None takes the Python standard library.
        eval_every: steps between two measurements of the validation loss.
        checkpoint_every: steps between two checkpoints.
        resume: continue the run that ``out`` holds.
        overwrite: delete the run that ``out`` holds.

    Raises:
        ValueError: if a value is not allowed.

    Example:
        >>> settings = TrainSettings(optimizer="adamw", steps=100, out=Path("out"))
        >>> settings.learning_rate
        0.001
    """

    optimizer: str
    steps: int
    out: Path | None = None
    preset: str | ModelPreset = "tiny"
    seed: int = 0
    lr: float | None = None
    vector_lr: float | None = None
    beta2: float = 0.95
    weight_decay: float = 0.0
    data: Path | None = None
    eval_every: int = 100
    checkpoint_every: int = 100
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        preset_of(self.preset)
        if self.optimizer not in DEFAULTS:
            raise ValueError(
                f"unknown optimizer {self.optimizer!r}: choose from {', '.join(DEFAULTS)}"
            )
        for name in ("steps", "eval_every", "checkpoint_every"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _require("seed", self.seed, 0 <= self.seed < SEEDS, "from 0 to 4294967295")
        for name in ("lr", "vector_lr"):
            value = getattr(self, name)
            allowed = value is None or (math.isfinite(value) and value > 0)
            _require(name, value, allowed, "positive and finite")
        _require("beta2", self.beta2, 0 <= self.beta2 < 1, "at least 0 and less than 1")
        _require(
            "weight_decay",
            self.weight_decay,
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "at least 0 and finite",
        )
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: give one of them")
        self._require_separate_folders()

    def _require_separate_folders(self) -> None:
        """A run must not read what it writes, nor delete what it reads."""
        if self.data is None or self.out is None:
            return
        out, data = Path(self.out).resolve(), Path(self.data).resolve()
        if out.is_relative_to(data) or data.is_relative_to(out):
            raise ValueError(
                f"out is {str(self.out)!r} and data is {str(self.data)!r}: neither may lie within "
                "the other"
            )

    @property
    def learning_rate(self) -> float | None:
        """``lr``, or the optimizer's default; None where the run finds the size of its steps."""
        return DEFAULTS[self.optimizer].lr if self.lr is None else self.lr

    @property
    def vector_learning_rate(self) -> float | None:
        """``vector_lr``, or the optimizer's default."""
        return DEFAULTS[self.optimizer].vector_lr if self.vector_lr is None else self.vector_lr

    def identity(self, corpus: Corpus) -> dict[str, Any]:
        """Return what defines the run, as plain data: two runs that agree in it are the same run.

        The text enters by its digest, not by its place; where the run writes, how often it saves
        and whether it resumes do not enter.
        """
        return {
            "preset": preset_of(self.preset).as_data(),
            "optimizer": self.optimizer,
            "steps": self.steps,
            "seed": self.seed,
            "lr": self.learning_rate,
            "vector_lr": self.vector_learning_rate,
            "beta2": self.beta2,
            "weight_decay": self.weight_decay,
            "eval_every": self.eval_every,
            "corpus": corpus.digest,
        }


def _require(name: str, value: object, allowed: bool, rule: str) -> None:
    """Raise a ValueError that names the argument unless its value is allowed."""
    if not allowed:
        raise ValueError(f"{name} must be {rule}, got {value}")
