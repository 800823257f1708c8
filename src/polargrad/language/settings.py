"""What a training run is: its settings, checked when they are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.data.opening import FIELD, HUB
from polargrad.language.evaluation import VALIDATION_WINDOWS
from polargrad.language.models import ModelPreset
from polargrad.language.presets import preset_of
from polargrad.language.recipes import DEFAULTS, check_recipe, recipe_of
from polargrad.language.schedules import DECAY_SHARES, WARMUP_STEPS, schedule_of

# torch's generator takes 32 bits of a seed: two larger ones could be the same run.
SEEDS = 2**32
PRECISIONS = ("no", "bf16", "auto")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of one training run.

    Args:
        optimizer: "polargrad", "muon", "adamw", "polarmuon", "muon-polarsgdm" or "symmetric"
            (:func:`polargrad.language.build_optimizer`).
        steps: number of steps of the whole run; decaying schedules reach zero at their end.
        out: the folder that the run writes, new or empty; None for a dry run alone.
        preset: name of the model and its batches, path of a configuration of transformers, or a
            :class:`~polargrad.language.ModelPreset`.
        batch: windows of a micro-batch on each rank; None takes the preset's.
        accumulate: micro-batches of a step on each rank, whose gradients are averaged.
        seed: seed of the initial parameters and of the batches, 0 to 2³² − 1.
        lr: learning rate; None takes the optimizer's default.
        vector_lr: learning rate of vectors, and of embeddings and head where these have no rule of
            their own; None takes the optimizer's default, which for adamw is ``lr``.
        embedding_lr: learning rate of embeddings and head where they have a rule of their own; None
            takes the optimizer's default.
        method: how the polar factor of the hidden matrices is computed; None takes the optimizer's
            default.
        beta2: second beta of AdamW, in [0, 1).
        weight_decay: decoupled weight decay, for every parameter.
        schedule: a name of :data:`polargrad.language.schedules.SCHEDULES`.
        warmup: steps in which the learning rate grows to its value.
        decay_share: the share of the steps in which it falls, of "linear" and "wsd"; None takes
            0.4 and 0.1.
        clip: the largest norm of all gradients together, beyond which they are scaled down; None
            leaves them as they are.
        precision: "no" computes in float32, "bf16" the products of the model in bfloat16, "auto"
            takes the latter where the hardware has units for it.
        data: what :func:`polargrad.language.data.open_data` takes; None for the Python standard
            library.
        tokenizer: path of a ``tokenizer.json``; None takes bytes where the model's vocabulary is
            the byte, else a BPE trained on the text.
        field: which field or column of a record holds the text.
        limit: how many tokens of the text are enough; None takes all.
        cache: folder of tokens and tokenizers; None takes the user's.
        eval_every: steps between two measurements of the validation loss.
        eval_windows: how many windows of the validation tokens it is measured on, the same ones
            every time.
        watch_every: steps between two looks at the spectra of gradients and momenta; 0 for none.
        checkpoint_every: steps between two checkpoints.
        keep: how many checkpoints to keep, the last ones.
        stop_after: end the session after this step, with a checkpoint from which the run can be
            resumed; None ends it with the run.
        mesh: how the model lies over the processes, as ``"dp=2,fsdp=4"``: copies (``dp``), shards
            of ``fully_shard`` (``fsdp``) and of tensor parallelism (``tp``); None for copies of
            which each does the whole step of the optimizer.
        tracker: a tracker of accelerate, such as "tensorboard", beside the records.
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
    batch: int | None = None
    accumulate: int = 1
    seed: int = 0
    lr: float | None = None
    vector_lr: float | None = None
    embedding_lr: float | None = None
    method: str | None = None
    beta2: float = 0.95
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: int = WARMUP_STEPS
    decay_share: float | None = None
    clip: float | None = None
    precision: str = "no"
    data: str | Path | None = None
    tokenizer: Path | None = None
    field: str = FIELD
    limit: int | None = None
    cache: Path | None = None
    eval_every: int = 100
    eval_windows: int = VALIDATION_WINDOWS
    watch_every: int = 0
    checkpoint_every: int = 100
    keep: int = 2
    stop_after: int | None = None
    mesh: str | None = None
    tracker: str | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        recipe_of(self.optimizer)
        check_recipe(
            self.optimizer,
            lr=self.learning_rate,
            embedding_lr=self.embedding_learning_rate,
            method=self.method,
        )
        self._require_numbers()
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}: choose from {', '.join(PRECISIONS)}"
            )
        # Each refuses what it cannot be made of.
        _ = self.model_preset, self.schedule_factor, self.mesh_sizes
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: give one of them")
        self._require_separate_folders()

    def _require_numbers(self) -> None:
        """Raise a ValueError unless every number is one that makes sense."""
        counts = ("steps", "accumulate", "eval_every", "eval_windows", "checkpoint_every", "keep")
        for name in counts:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("batch", "limit", "stop_after"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "at least 1")
        _require("watch_every", self.watch_every, self.watch_every >= 0, "at least 0")
        _require("seed", self.seed, 0 <= self.seed < SEEDS, "from 0 to 4294967295")
        for name in ("lr", "vector_lr", "embedding_lr", "clip"):
            value = getattr(self, name)
            allowed = value is None or (math.isfinite(value) and value > 0)
            _require(name, value, allowed, "positive and finite")
        _require("beta2", self.beta2, 0 <= self.beta2 < 1, "at least 0 and less than 1")
        decay = self.weight_decay
        _require(
            "weight_decay", decay, math.isfinite(decay) and decay >= 0, "at least 0 and finite"
        )

    def _require_separate_folders(self) -> None:
        """A run must not read what it writes, nor delete what it reads."""
        if self.data is None or self.out is None or str(self.data).startswith(HUB):
            return
        out, data = Path(self.out).resolve(), Path(self.data).resolve()
        if out.is_relative_to(data) or data.is_relative_to(out):
            raise ValueError(
                f"out is {str(self.out)!r} and data is {str(self.data)!r}: neither may lie within "
                "the other"
            )

    @property
    def model_preset(self) -> ModelPreset:
        """The model, with the batch that was asked for."""
        preset = preset_of(self.preset)
        if self.batch is None:
            return preset
        changed: ModelPreset = replace(preset, batch=self.batch)  # type: ignore[type-var]
        return changed

    @property
    def mesh_sizes(self) -> MeshSizes | None:
        """How many processes the mesh has in each dimension; None without one."""
        return None if self.mesh is None else MeshSizes.parse(self.mesh)

    @property
    def schedule_factor(self) -> Callable[[int], float]:
        """The factor of all learning rates as a function of the step."""
        return schedule_of(self.schedule, self.steps, warmup=self.warmup, share=self.decay_share)

    @property
    def learning_rate(self) -> float | None:
        """``lr``, or the optimizer's default; None where the run finds the size of its steps."""
        return DEFAULTS[self.optimizer].lr if self.lr is None else self.lr

    @property
    def vector_learning_rate(self) -> float | None:
        """``vector_lr``, or the optimizer's default."""
        return DEFAULTS[self.optimizer].vector_lr if self.vector_lr is None else self.vector_lr

    @property
    def embedding_learning_rate(self) -> float | None:
        """``embedding_lr``, or the optimizer's default; None where it has no such rate."""
        default = DEFAULTS[self.optimizer].embedding_lr
        return default if self.embedding_lr is None else self.embedding_lr

    @property
    def polar_method(self) -> str | None:
        """``method``, or the optimizer's default; None where it takes no polar factor."""
        return recipe_of(self.optimizer).method if self.method is None else self.method

    def identity(
        self, digest: str, *, ranks: int = 1, precision: str | None = None
    ) -> dict[str, Any]:
        """Return what defines the run, as plain data: two runs that agree in it are the same run.

        The tokens enter by their digest, not by their place, and the batch of a step as a whole,
        not how ranks and micro-batches share it, nor how the model lies over them. Where the run
        writes, how often it saves or looks
        at spectra, where it stops and whether it resumes do not enter.

        Args:
            digest: of the tokens.
            ranks: the number of processes that see windows of their own.
            precision: "no" or "bf16", what "auto" came to; None for the setting as it is.
        """
        preset = self.model_preset
        model = {key: value for key, value in preset.as_data().items() if key != "batch"}
        share = DECAY_SHARES.get(self.schedule)
        return {
            "preset": model,
            "windows_per_step": preset.batch * self.accumulate * ranks,
            "optimizer": self.optimizer,
            "steps": self.steps,
            "seed": self.seed,
            "lr": self.learning_rate,
            "vector_lr": self.vector_learning_rate,
            "embedding_lr": self.embedding_learning_rate,
            "method": self.polar_method,
            "beta2": self.beta2,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "decay_share": share if self.decay_share is None else self.decay_share,
            "clip": self.clip,
            "precision": self.precision if precision is None else precision,
            "eval_every": self.eval_every,
            "eval_windows": self.eval_windows,
            "corpus": digest,
        }


def _require(name: str, value: object, allowed: bool, rule: str) -> None:
    """Raise a ValueError that names the argument unless its value is allowed."""
    if not allowed:
        raise ValueError(f"{name} must be {rule}, got {value}")
