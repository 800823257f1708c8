"""Pre-training of a language model: one run, from its settings to its folder."""

from __future__ import annotations

import contextlib
import errno
import math
import platform
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polargrad.errors import CollectiveError, NonFiniteError, RunFolderError
from polargrad.language.checkpoint import CHECKPOINTS, Checkpoints, ranks_of, restore
from polargrad.language.curves import FIGURE, SPECTRA_FIGURE, draw_losses, draw_spectra
from polargrad.language.evaluation import validation_loss
from polargrad.language.input import Input, open_input
from polargrad.language.interrupts import StopRequest
from polargrad.language.journal import (
    RECORDS,
    SPECTRA,
    Journal,
    add_session,
    records_in,
    require_tracker,
    rewind,
)
from polargrad.language.layout import largest_entry, views_returned
from polargrad.language.optimizers import rate_in_words
from polargrad.language.progress import TokenCount
from polargrad.language.ranks import Ranks, is_of_exchange, joined, precision_here
from polargrad.language.settings import TrainSettings
from polargrad.language.spectra import Spectra
from polargrad.language.stepper import Stepper
from polargrad.language.stopwatch import peak_memory
from polargrad.language.tensor_plan import require_plan
from polargrad.records import RunFolder, exclusive, require
from polargrad.records.files import remove_unfinished


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Args:
        validation_loss: the last one measured, in nats per ``unit``.
        unit: what a token is, "byte" or "token".
        steps: number of steps done in all sessions of the run.
        tokens: number of tokens that were predicted in them.
        seconds: time spent in these steps, without the measurements of the validation loss.
        out: the folder of the run.
        interrupted: the signal that asked the run to stop, or None.
    """

    validation_loss: float
    unit: str
    steps: int
    tokens: int
    seconds: float
    out: Path
    interrupted: signal.Signals | None


def train(settings: TrainSettings) -> TrainResult:
    """Train the preset's model on the data, and leave records, figure and checkpoints in ``out``.

    The folder receives ``settings.json``, ``provenance.json``, ``records.jsonl`` (one record a
    step), ``loss.png`` and ``checkpoints/``. The first Ctrl-C or SIGTERM ends the run after the
    current step with a checkpoint, the second at once. A resumed run gives the parameters and the
    records of one that was never stopped, to the bit, on the same machine with the same torch and
    numbers of threads and ranks (on a GPU as far as its kernels are deterministic). Torch's global
    random generator is left as it was.

    Under ``torchrun`` every process calls this, all see the same folder, rank 0 writes it, and all
    return the same. The process group stays.

    Raises:
        ValueError: if ``out`` is None, or a setting does not apply to the data or the model.
        DataError: if the data cannot be read, do not fit the model's vocabulary or are too short.
        RunFolderError: if ``out`` holds something else, or no checkpoint that belongs to the run
            and is whole (nothing is changed then), or if it cannot be written any more.
        NonFiniteError: if the loss, a gradient or a parameter becomes infinite or undefined; the
            last checkpoint is kept.
        CollectiveError: if another rank ends while steps are taken; the last checkpoint is kept.
        MissingExtraError: if a package is missing.
    """
    if settings.out is None:
        raise ValueError("out must be the folder of the run, got None: only a dry run needs none")
    for module in ("accelerate", "matplotlib", "tqdm"):
        require(module, extra="language")
    require_tracker(settings.tracker)
    require_plan(settings.model_preset, settings.mesh_sizes)
    precision = precision_here(settings.precision)
    out, say_tokens = Path(settings.out), TokenCount()
    with (
        joined(
            precision=precision,
            accumulate=settings.accumulate,
            tracker=settings.tracker,
            out=out,
            mesh=settings.mesh_sizes,
        ) as ranks,
        ranks.randomness(settings.seed),
    ):
        data = ranks.one_first(
            lambda: open_input(
                settings.model_preset,
                settings.data,
                tokenizer=settings.tokenizer,
                field=settings.field,
                limit=settings.limit,
                cache=settings.cache,
                on_progress=say_tokens if ranks.first else None,
            )
        )
        # Not before: text that is being tokenized may be interrupted at any moment.
        with StopRequest() as stop:
            return _Run(settings, data, ranks, precision, out).execute(stop)


class _Run:
    """A run while it is going on: the objects that change, and the files they are written to."""

    def __init__(
        self, settings: TrainSettings, data: Input, ranks: Ranks, precision: str, out: Path
    ) -> None:
        """Build everything that can fail before the folder is touched."""
        self.settings = settings
        self.data = data
        self.ranks = ranks
        self.precision = precision
        self.out = out
        self.preset = settings.model_preset
        self.identity = settings.identity(data.data.digest, ranks=ranks.parts, precision=precision)
        self.checkpoints = Checkpoints(out / CHECKPOINTS, settings.keep, mapped=ranks.sharded)
        self.stepper = Stepper(settings, data, ranks, precision=precision)
        self.spectra = Spectra(self.stepper.model) if settings.watch_every else None
        self.tokens_per_step = self.identity["windows_per_step"] * self.preset.context
        self.step = 0
        self.resumed_from: int | None = None

    @property
    def last_step(self) -> int:
        """The step after which this session ends."""
        return min(self.settings.steps, self.settings.stop_after or self.settings.steps)

    def execute(self, stop: StopRequest) -> TrainResult:
        """Do the run, with no other process in its folder."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(views_returned())

            def enter() -> None:
                self._folder(RunFolder.check)  # what is refused leaves nothing, not even a parent
                stack.enter_context(exclusive(self.out))

            self.ranks.alone(enter)
            return self._execute(stop)

    def _folder(self, take: Callable[..., object]) -> None:
        """Ask for the folder, in one of the ways of :class:`~polargrad.records.RunFolder`."""
        settings = self.settings
        take(self.out, self.identity, resume=settings.resume, overwrite=settings.overwrite)

    def _execute(self, stop: StopRequest) -> TrainResult:
        """Claim the folder, take the steps that are left, and close the run."""
        saved_with = self._open()
        journal = Journal(
            self.out,
            self.ranks,
            label=f"{self.preset.name}, {self.settings.optimizer}",
            first=self.step,
            steps=self.settings.steps,
            spectra=bool(self.settings.watch_every),
            settings=self.identity,
        )
        with journal:
            journal.say(self._description())
            if saved_with not in (None, str(self.ranks)):
                journal.say(
                    f"the checkpoint is of {saved_with}, this session of {self.ranks}: the run "
                    "goes on to rounding, not to the bit"
                )
            stopped = self._go_on(journal, stop)
            if stopped is not None or self.step < self.settings.steps:
                journal.say(f"stopped after step {self.step} of {self.settings.steps}")
        self.ranks.alone(self._draw)
        return self.ranks.alone(lambda: self._result(stopped))

    def _open(self) -> str | None:
        """Claim the folder and go back to its checkpoint; return of which ranks that is."""
        contents: dict[str, Any] | None = None

        def claim() -> int | None:
            nonlocal contents
            self._folder(RunFolder.claim)
            contents = self.checkpoints.newest(self.identity)
            return None if contents is None else int(contents["step"])

        step = self.ranks.alone(claim)
        if step is not None:
            if contents is None:
                contents = self.checkpoints.load(step, self.identity)
            self._restore(contents)
            self.ranks.set_random_state(contents["random_states"])
            self.step = self.resumed_from = step
        self.ranks.alone(self._begin_session)
        return None if contents is None else ranks_of(contents)

    def _restore(self, contents: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, this process's part of it."""
        stepper = self.stepper
        stepper.rehearse()
        try:
            contents = stepper.layout.placed(contents, stepper.optimizer)
        except ValueError as error:
            raise RunFolderError(f"the checkpoint does not fit this model: {error}") from None
        restore(contents, stepper.model, stepper.optimizer, stepper.schedule)

    def _begin_session(self) -> None:
        """Bring the files of the folder to the state of the checkpoint."""
        if self.step:
            steps = {record["step"] for record in records_in(self.out)}
            if not steps.issuperset(range(self.step + 1)):
                raise RunFolderError(
                    f"{str(self.out / RECORDS)!r} lacks steps before the checkpoint's, "
                    f"{self.step}: put it back, or start again with overwrite"
                )
        remove_unfinished(self.out)
        rewind(self.out, self.step)
        settings = self.settings
        add_session(
            self.out,
            from_step=self.step,
            data=None if settings.data is None else str(settings.data),
            unit=self.data.unit,
            ranks=self.ranks.count,
            mesh=None if self.ranks.mesh is None else str(self.ranks.mesh),
            accumulate=settings.accumulate,
            precision=self.precision,
            device=_name_of(self.ranks.device),
        )

    def _description(self) -> str:
        """What is trained on what, in a line."""
        parameters = sum(parameter.numel() for parameter in self.stepper.model.parameters())
        return f"{parameters / 1e6:.2f} M parameters; {self.data.description}"

    def _go_on(self, journal: Journal, stop: StopRequest) -> signal.Signals | None:
        """Take the steps; where a full disk or a rank that has ended stops them, say what is left.

        Raises:
            RunFolderError: if the system refuses to write or to read.
            CollectiveError: if the ranks cannot exchange anything any more.
        """
        try:
            return self._loop(journal, stop)
        except NonFiniteError:
            self.ranks.alone(self._draw)
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunFolderError(
                f"{self._ended(error.strerror or str(error))}: "
                f"{'make room' if full else 'put that right'} and resume"
            ) from error
        except RuntimeError as error:
            if not is_of_exchange(error):
                raise
            known = isinstance(error, CollectiveError)
            reason = str(error) if known else "another rank has probably ended, or hangs"
            raise CollectiveError(f"{self._ended(reason)}: resume with all ranks") from error

    def _ended(self, reason: str) -> str:
        """Why the run cannot go on, and what is left of it."""
        kept = self.checkpoints.steps
        left = f"the checkpoint of step {kept[-1]} is whole" if kept else "no checkpoint is lost"
        return f"the run in {str(self.out)!r} cannot go on after step {self.step}: {reason}; {left}"

    def _loop(self, journal: Journal, stop: StopRequest) -> signal.Signals | None:
        """Take steps until they are done or a signal asks to stop, which is returned."""
        settings, last = self.settings, self.last_step
        if self.step == 0:
            self._record(journal, {"step": 0, "validation_loss": self._validation_loss()})
        saved, stopped = self.resumed_from, None
        while self.step < last and (stopped := self.ranks.signal(stop.signal)) is None:
            record = self._update()
            if self.step == settings.steps or self.step % settings.eval_every == 0:
                record["validation_loss"] = self._validation_loss()
                record["peak_memory"] = peak_memory(self.ranks.device)
            self._record(journal, record)
            self._watch(journal)
            if self.step == last or self.step % settings.checkpoint_every == 0:
                self._save(journal)
                saved = self.step
        if stopped is not None and saved != self.step:
            self._save(journal)
        return stopped

    def _update(self) -> dict[str, Any]:
        """Take one step and return its record."""
        step = self.stepper.take(self.step)
        for name, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
            self._require_finite(name, value, step=self.step + 1, lr=step.lr)
        self.step += 1
        return {
            "step": self.step,
            "loss": step.loss,
            "lr": step.lr,
            "gradient_norm": step.gradient_norm,
            "tokens": self.step * self.tokens_per_step,
            "seconds": step.seconds,
            "optimizer_seconds": step.optimizer_seconds,
            "tokens_per_second": self.tokens_per_step / step.seconds,
        }

    def _watch(self, journal: Journal) -> None:
        """Write down the spectra of the step, if it is one of those that are looked at."""
        if self.spectra is None or self.step % self.settings.watch_every:
            return
        if not (self.ranks.first or self.ranks.sharded):
            return
        # Where they hold parts of them, all ranks bring the matrices together.
        matrices = self.spectra.matrices(self.stepper.optimizer.state, measure=self.ranks.first)
        journal.spectra({"step": self.step, "matrices": matrices})

    def _validation_loss(self) -> float:
        """The mean cross-entropy over the validation windows, which must be finite."""
        loss = validation_loss(
            self.stepper.model,
            self.data.data.validation,
            self.preset,
            self.ranks,
            windows=self.settings.eval_windows,
        )
        self.stepper.layout.rest()
        self._require_finite("validation loss", loss, step=self.step, lr=self.stepper.lr)
        return loss

    def _require_finite(self, name: str, value: float, *, step: int, lr: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the {name} became {value} at step {step}, where lr was {lr:.3g} "
                f"(lr={rate_in_words(self.settings.learning_rate)} before the schedule): "
                "give a smaller lr"
            )

    def _record(self, journal: Journal, record: dict[str, Any]) -> None:
        digest = self.data.data.digest
        journal.record({**record, "corpus": digest, "python": platform.python_version()})

    def _save(self, journal: Journal) -> None:
        """Write a checkpoint, unless it would replace a good one by a broken one."""
        stepper = self.stepper
        # The mean over the ranks is finite where it is on each of them.
        (mean,) = self.ranks.mean(largest_entry(stepper.model).view(1))
        self._require_finite("largest parameter", mean, step=self.step, lr=stepper.lr)
        journal.sync()
        states = self.ranks.random_states()
        model, optimizer = stepper.layout.saved(stepper.optimizer)
        self.ranks.alone(
            lambda: self.checkpoints.save(
                self.step,
                identity=self.identity,
                model=model,
                optimizer=optimizer,
                schedule=stepper.schedule.state_dict(),
                random_states=states,
                ranks=str(self.ranks),
            )
        )

    def _draw(self) -> None:
        settings = self.settings
        title = (
            f"{self.preset.name}, {settings.optimizer}, "
            f"lr {rate_in_words(settings.learning_rate)}, seed {settings.seed}"
        )
        draw_losses(self.out / RECORDS, self.out / FIGURE, title=title, unit=self.data.unit)
        if (self.out / SPECTRA).exists():
            draw_spectra(self.out / SPECTRA, self.out / SPECTRA_FIGURE, title=title)

    def _result(self, stopped: signal.Signals | None) -> TrainResult:
        found = records_in(self.out)
        return TrainResult(
            validation_loss=[r["validation_loss"] for r in found if "validation_loss" in r][-1],
            unit=self.data.unit,
            steps=self.step,
            tokens=self.step * self.tokens_per_step,
            seconds=sum(r.get("seconds", 0.0) for r in found),
            out=self.out,
            interrupted=stopped,
        )


def _name_of(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
