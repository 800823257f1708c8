"""A model that takes a step in milliseconds, and a text to train it on."""

import pytest

from polargrad.language import Preset, TrainSettings


@pytest.fixture
def small():
    """A preset of two blocks of width 16."""
    return Preset(name="small", layers=2, width=16, feed_forward=32, heads=2, context=16, batch=4)


@pytest.fixture
def text(tmp_path):
    """A text file of 12 kB with some structure to learn."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    return path


@pytest.fixture
def settings(small, text, tmp_path):
    """Settings of a run of eight steps; keyword arguments replace them."""

    def make(**changes):
        given = {
            "preset": small,
            "optimizer": "adamw",
            "steps": 8,
            "out": tmp_path / "out",
            "data": text,
            "eval_every": 3,
            "checkpoint_every": 3,
        }
        return TrainSettings(**{**given, **changes})

    return make
