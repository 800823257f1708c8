"""Pre-training of a small language model: one run, from its settings to its folder."""

from __future__ import annotations

import json
import math
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polargrad.errors import NonFiniteError, RunFolderError
from polargrad.language.batches import training_batch, validation_batches
from polargrad.language.checkpoint import CHECKPOINT, load_checkpoint, restore, save_checkpoint
from polargrad.language.corpus import Corpus, load_corpus
from polargrad.language.curves import FIGURE, draw_losses
from polargrad.language.interrupts import StopRequest
from polargrad.language.models import ModelPreset
from polargrad.language.optimizers import build_optimizer, build_schedule, rate_in_words
from polargrad.language.presets import build_model, preset_of
from polargrad.language.progress import Progress
from polargrad.language.settings import TrainSettings
from polargrad.records import (
    RecordWriter,
    RunFolder,
    provenance,
    read_records,
    require,
    rewind_records,
    write_atomically,
)

RECORDS = "records.jsonl"
PROVENANCE = "provenance.json"
# 256 windows of 128 bytes: the loss of two models on the same ones is compared far more exactly
# than either is known, and measuring it costs as much as five training steps.
VALIDATION_WINDOWS = 256


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Args:
        validation_loss: the last one measured, in nats per byte.
        steps: number of steps done in all sessions of the run.
        seconds: time spent in these steps, without the measurements of the validation loss.
        out: the folder of the run.
        interrupted: the signal that asked the run to stop, or None.
    """

    validation_loss: float
    steps: int
    seconds: float
    out: Path
    interrupted: signal.Signals | None


def train(settings: TrainSettings) -> TrainResult:
    """Train the preset's model on the text, and leave records, figure and checkpoint in ``out``.

    The folder receives ``settings.json``, ``provenance.json``, ``records.jsonl`` (one record a
    step), ``loss.png`` and ``checkpoint.pt``. The first Ctrl-C or SIGTERM ends the run after the
    current step with a checkpoint, the second at once. A resumed run gives the parameters and the
    records of one that was never stopped, to the bit, on the same machine with the same torch and
    number of threads. Torch's global random generator is left as it was.

    Raises:
        ValueError: if ``out`` is None, or the text has tokens that the model's vocabulary lacks.
        DataError: if the text is missing, empty, not text or too short.
        RunFolderError: if ``out`` holds something else, or a checkpoint that does not belong to
            the run; nothing is changed then.
        NonFiniteError: if the loss, a gradient or a parameter becomes infinite or undefined; the
            last checkpoint is kept.
        MissingExtraError: if transformers, matplotlib or tqdm is missing.
    """
    if settings.out is None:
        raise ValueError("out must be the folder of the run, got None: only a dry run needs none")
    for module in ("matplotlib", "tqdm", "transformers"):
        require(module, extra="language")
    corpus = load_corpus(settings.data, shortest=preset_of(settings.preset).context + 1)
    with torch.random.fork_rng(devices=[]), StopRequest() as stop:
        torch.manual_seed(settings.seed)
        return _Run(settings, corpus, Path(settings.out)).execute(stop)


def language_model_loss(model: torch.nn.Module, windows: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of each token of ``windows`` after the first, given those before.

    Args:
        model: a causal language model: called with ``input_ids``, it returns ``logits``.
        windows: tokens, ``(batch, context + 1)``.
        reduction: "mean" or "sum" over the predicted tokens.
    """
    logits = model(input_ids=windows[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


def validation_loss(model: torch.nn.Module, tokens: Tensor, preset: ModelPreset) -> float:
    """Return the mean cross-entropy over the validation windows of a text, in nats per byte.

    The model is asked as it will be used, without dropout, and left in the mode it was in.

    Args:
        model: a causal language model, as :func:`language_model_loss` takes it.
        tokens: the validation text, one-dimensional, uint8.
        preset: the sizes of a window and of a batch; the result does not depend on the latter
            beyond rounding.
    """
    total, count = 0.0, 0
    training = model.training
    model.eval()
    with torch.no_grad():
        for windows in validation_batches(
            tokens, batch=preset.batch, context=preset.context, windows=VALIDATION_WINDOWS
        ):
            total += language_model_loss(model, windows, reduction="sum").item()
            count += windows[:, 1:].numel()
    model.train(training)
    return total / count


class _Run:
    """A run while it is going on: the objects that change, and the files they are written to."""

    def __init__(self, settings: TrainSettings, corpus: Corpus, out: Path) -> None:
        """Build everything that can fail before the folder is touched."""
        self.settings = settings
        self.corpus = corpus
        self.out = out
        self.preset = preset_of(settings.preset)
        _require_vocabulary(self.preset, corpus)
        self.identity = settings.identity(corpus)
        self.model = build_model(self.preset, settings.seed)
        self.optimizer = build_optimizer(
            self.model,
            settings.optimizer,
            lr=settings.learning_rate,
            vector_lr=settings.vector_learning_rate,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
        )
        self.schedule = build_schedule(self.optimizer, settings.steps)
        self.step = 0

    def execute(self, stop: StopRequest) -> TrainResult:
        """Claim the folder, take the steps that are left, and close the run."""
        folder = self._open()
        label = f"{self.preset.name}, {self.settings.optimizer}"
        with (
            RecordWriter(folder / RECORDS) as records,
            Progress(label=label, first=self.step, steps=self.settings.steps) as progress,
        ):
            progress.say(self._description())
            try:
                self._loop(records, progress, stop, folder / CHECKPOINT)
            except NonFiniteError:
                self._draw(folder)
                raise
            if stop.signal is not None:
                progress.say(f"stopped after step {self.step} of {self.settings.steps}")
        self._draw(folder)
        return self._result(folder, stop)

    def _open(self) -> Path:
        """Claim the folder and, to resume, go back to its checkpoint."""
        settings = self.settings
        folder = RunFolder.claim(
            self.out, self.identity, resume=settings.resume, overwrite=settings.overwrite
        ).path
        checkpoint = folder / CHECKPOINT
        if checkpoint.exists():
            contents = load_checkpoint(checkpoint, self.identity)
            restore(contents, self.model, self.optimizer, self.schedule)
            self.step = contents["step"]
            steps = {record["step"] for record in _records_in(folder)}
            if not steps.issuperset(range(self.step + 1)):
                raise RunFolderError(
                    f"{str(folder / RECORDS)!r} lacks steps before the checkpoint's, "
                    f"{self.step}: put it back, or start again with overwrite"
                )
        # Before the first step (a run killed before its first checkpoint begins again) the loss of
        # the initial parameters is measured and recorded anew.
        rewind_records(folder / RECORDS, last_step=self.step if self.step else -1)
        self._write_provenance(folder / PROVENANCE)
        return folder

    def _write_provenance(self, path: Path) -> None:
        """Append this session to the list of those that made the run."""
        sessions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        data = None if self.settings.data is None else str(self.settings.data)
        sessions.append({"from_step": self.step, "data": data, **provenance()})
        text = json.dumps(sessions, indent=2) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))

    def _description(self) -> str:
        """What is trained on what, in a line."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        corpus = self.corpus
        left_out = f", {corpus.skipped} that are not text left out" if corpus.skipped else ""
        return (
            f"{parameters / 1e6:.2f} M parameters; {len(corpus.train):,} bytes to train on, "
            f"{len(corpus.validation):,} to validate ({corpus.split}), "
            f"files: {corpus.files}{left_out}"
        )

    def _loop(
        self, records: RecordWriter, progress: Progress, stop: StopRequest, checkpoint: Path
    ) -> None:
        """Take steps until they are done or a signal asks to stop; save the state at the end."""
        settings = self.settings
        if self.step == 0:
            self._record(records, {"step": 0, "validation_loss": self._validation_loss()})
        saved = None
        while self.step < settings.steps and stop.signal is None:
            record = self._update()
            last = self.step == settings.steps
            if last or self.step % settings.eval_every == 0:
                record["validation_loss"] = self._validation_loss()
            self._record(records, record)
            progress.report(self.step, record["loss"], record.get("validation_loss"))
            if last or self.step % settings.checkpoint_every == 0:
                self._save(records, checkpoint)
                saved = self.step
        if stop.signal is not None and saved != self.step:
            self._save(records, checkpoint)

    def _update(self) -> dict[str, Any]:
        """Take one step and return its record."""
        began = time.perf_counter()
        preset = self.preset
        windows = training_batch(
            self.corpus.train,
            batch=preset.batch,
            context=preset.context,
            seed=self.settings.seed,
            step=self.step,
        )
        loss = language_model_loss(self.model, windows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )
        lr = self.optimizer.param_groups[0]["lr"]
        record = {"step": self.step + 1, "loss": loss.item(), "lr": lr}
        record["gradient_norm"] = norm.item()
        for name in ("loss", "gradient_norm"):
            self._require_finite(name.replace("_", " "), record[name], step=self.step + 1, lr=lr)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        seconds = time.perf_counter() - began
        tokens = preset.batch * preset.context
        return {**record, "seconds": seconds, "tokens_per_second": tokens / seconds}

    def _validation_loss(self) -> float:
        """The mean cross-entropy over the validation windows, which must be finite."""
        loss = validation_loss(self.model, self.corpus.validation, self.preset)
        lr = self.optimizer.param_groups[0]["lr"]
        self._require_finite("validation loss", loss, step=self.step, lr=lr)
        return loss

    def _require_finite(self, name: str, value: float, *, step: int, lr: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the {name} became {value} at step {step}, where lr was {lr:.3g} "
                f"(lr={rate_in_words(self.settings.learning_rate)} before the schedule): "
                "give a smaller lr"
            )

    def _record(self, records: RecordWriter, record: dict[str, Any]) -> None:
        records.write({**record, "corpus": self.corpus.digest, "python": platform.python_version()})

    def _save(self, records: RecordWriter, path: Path) -> None:
        """Write a checkpoint, unless it would replace a good one by a broken one."""
        lr = self.optimizer.param_groups[0]["lr"]
        # Torch's max, unlike Python's, is undefined when any of its arguments is.
        largest = torch.stack([p.detach().abs().max() for p in self.model.parameters()]).max()
        self._require_finite("largest parameter", largest.item(), step=self.step, lr=lr)
        records.sync()
        save_checkpoint(
            path,
            step=self.step,
            identity=self.identity,
            model=self.model,
            optimizer=self.optimizer,
            schedule=self.schedule,
        )

    def _draw(self, folder: Path) -> None:
        settings = self.settings
        title = (
            f"{self.preset.name}, {settings.optimizer}, "
            f"lr {rate_in_words(settings.learning_rate)}, seed {settings.seed}"
        )
        draw_losses(folder / RECORDS, folder / FIGURE, title=title)

    def _result(self, folder: Path, stop: StopRequest) -> TrainResult:
        found = list(_records_in(folder))
        return TrainResult(
            validation_loss=[r["validation_loss"] for r in found if "validation_loss" in r][-1],
            steps=self.step,
            seconds=sum(r.get("seconds", 0.0) for r in found),
            out=folder,
            interrupted=stop.signal,
        )


def _require_vocabulary(preset: ModelPreset, corpus: Corpus) -> None:
    """Raise unless the model has an embedding for every token of the text.

    Raises:
        ValueError: if it does not.
    """
    largest = max(int(corpus.train.max()), int(corpus.validation.max()))
    if largest >= preset.vocabulary:
        raise ValueError(
            f"preset {preset.name} has a vocabulary of {preset.vocabulary} tokens, numbered from "
            f"0, and the text has a token {largest}"
        )


def _records_in(folder: Path) -> list[dict[str, Any]]:
    path = folder / RECORDS
    return list(read_records(path)) if path.exists() else []
