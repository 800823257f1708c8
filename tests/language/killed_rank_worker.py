"""A rank of a run of which one is killed: ``killed_rank_worker.py FOLDER MESH STEP``.

First the run is taken to its end, then begun once more: before step STEP the last rank is killed,
and every other leaves in FOLDER/ended-RANK the words in which it ended. With STEP "none" the run
that was killed is resumed. Without a mesh MESH is "none" too.
"""

import os
import signal
import sys
from pathlib import Path

from light_language import BlockPreset

from polargrad.language import TrainSettings, train
from polargrad.language.data import TrainingBatches
from polargrad.language.ranks import leave

RANK, COUNT = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


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


def die_before(step):
    """Have the last rank killed where it reads the batch of a step."""
    read = TrainingBatches.__getitem__

    def read_or_die(batches, index):
        if index == step and RANK == COUNT - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(batches, index)

    TrainingBatches.__getitem__ = read_or_die


def main(folder, mesh, step):
    # Figures take longer than such a run, and nothing depends on them.
    training = sys.modules[train.__module__]
    training.draw_losses = lambda *places, **named: None
    if step == "none":
        train(settings(folder, "killed", mesh, resume=True))
        leave()
        return
    train(settings(folder, "whole", mesh))
    die_before(int(step))
    try:
        train(settings(folder, "killed", mesh))
    except Exception as error:
        (folder / f"ended-{RANK}").write_text(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
