"""A rank of a run of which one is killed: ``killed_rank_worker.py FOLDER MESH VICTIM``.

First the run is taken to its end, then begun once more: after step 5 the rank VICTIM is killed, and
every other leaves in FOLDER/ended-RANK the words in which it ended. With VICTIM "none" the run that
was killed is resumed. Without a mesh MESH is "none" too.
"""

import os
import signal
import sys
from pathlib import Path

from light_language import BlockPreset

from polargrad.language import TrainSettings, train
from polargrad.language.data import TrainingBatches
from polargrad.language.ranks import leave

RANK = os.environ.get("RANK", "")
LAST = 5


def settings(folder, out, mesh, **changes):
    """A run of eight steps with a checkpoint after every third."""
    given = {
        "preset": BlockPreset(dropout=0.2),
        "optimizer": "polargrad",
        "steps": 8,
        "data": folder / "text.txt",
        "cache": folder / "cache",
        "eval_every": 4,
        "eval_windows": 16,
        "checkpoint_every": 3,
        "out": folder / out,
        "mesh": None if mesh == "none" else mesh,
    }
    return TrainSettings(**{**given, **changes})


def die():
    """Have this process killed where it reads the batch of the step after the last."""
    read = TrainingBatches.__getitem__

    def read_or_die(batches, index):
        if index == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(batches, index)

    TrainingBatches.__getitem__ = read_or_die


def main(folder, mesh, victim):
    # Figures take longer than such a run, and nothing depends on them.
    training = sys.modules[train.__module__]
    training.draw_losses = lambda *places, **named: None
    if victim == "none":
        train(settings(folder, "killed", mesh, resume=True))
        leave()
        return
    train(settings(folder, "whole", mesh))
    if victim == RANK:
        die()
    try:
        train(settings(folder, "killed", mesh))
    except Exception as error:
        (folder / f"ended-{RANK}").write_text(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
