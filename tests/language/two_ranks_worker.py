"""Under torchrun: runs of two processes, whose outcomes rank 0 leaves in FOLDER/report.json."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from light_language import LightPreset
from torch.nn.parallel import DistributedDataParallel

from polargrad.errors import DataError, NonFiniteError, RunFolderError
from polargrad.language import TrainSettings, stepper, train
from polargrad.language.data import TrainingBatches
from polargrad.language.ranks import leave

RANK = int(os.environ.get("RANK", "0"))
FOLDER = Path(sys.argv[-1])


def settings(out, **changes):
    given = {
        "preset": LightPreset(dropout=0.0),
        "optimizer": "polargrad",
        "lr": 0.05,
        "steps": 8,
        "data": FOLDER / "text.txt",
        "eval_every": 3,
        "checkpoint_every": 3,
        "out": FOLDER / out,
        "cache": FOLDER / "cache",
    }
    return TrainSettings(**{**given, **changes})


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


def at_step(step, action):
    """Do something on rank 1 where the batch of a step is read."""
    read = TrainingBatches.__getitem__

    def read_and_act(batches, index):
        if index == step and RANK == 1:
            action()
        return read(batches, index)

    return replaced(TrainingBatches, "__getitem__", read_and_act)


def refused(error, run):
    """The words in which a run is refused on this rank."""
    try:
        train(run)
    except error as caught:
        return str(caught)
    return None


def synchronizations():
    """How often the backward pass was to average gradients, in 4 steps of 3 micro-batches.

    Asked of DistributedDataParallel itself: a communication hook in Python would be called, and
    let go of, by the threads of gloo, which is no way to end a process.
    """
    calls = 0

    def count(model, *arguments, **named):
        nonlocal calls
        calls += model.require_backward_grad_sync and torch.is_grad_enabled()
        return forward(model, *arguments, **named)

    with replaced(DistributedDataParallel, "forward", count) as forward:
        train(settings("counted", steps=4, accumulate=3))
    return calls


def poisoned():
    """The loss of rank 1 is not a number at step 5; both ranks say so."""
    loss = stepper.language_model_loss
    count = 0

    def spoil(model, windows):
        nonlocal count
        count += 1
        return loss(model, windows) * (float("nan") if count == 5 and RANK == 1 else 1.0)

    with replaced(stepper, "language_model_loss", spoil):
        return refused(NonFiniteError, settings("poisoned"))


def main():
    report = {}
    train(settings("two"))
    train(settings("clipped", clip=0.5, accumulate=2))
    train(settings("half", stop_after=4))
    dropping = LightPreset(dropout=0.5)
    train(settings("dropout whole", preset=dropping))
    train(settings("dropout parts", preset=dropping, stop_after=4))
    train(settings("dropout parts", preset=dropping, resume=True))
    report["synchronizations"] = synchronizations()
    report["poisoned"] = poisoned()
    with at_step(4, lambda: signal.raise_signal(signal.SIGTERM)):
        stopped = train(settings("stopped"))
    report["stopped"] = [stopped.steps, stopped.interrupted.name]
    train(settings("stopped", resume=True))
    report["no data"] = refused(DataError, settings("none", data=FOLDER / "missing"))
    report["occupied"] = refused(RunFolderError, settings("two"))
    report["other batch"] = refused(RunFolderError, settings("half", accumulate=2, resume=True))
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, report)
    if leave():
        (FOLDER / "report.json").write_text(json.dumps(gathered))


if __name__ == "__main__":
    main()
