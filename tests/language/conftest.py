"""A model that takes a step in milliseconds, and a text to train it on."""

import sys

import pytest

from polargrad.language import Preset, TrainSettings
from polargrad.language.models import ConfigPreset, MixturePreset, TokenPreset, ValueGPTPreset

SIZES = {"width": 16, "feed_forward": 32, "heads": 2, "context": 16, "batch": 4}
VALUE_GPT = {
    **SIZES,
    "vocabulary": 256,
    "outputs": 272,
    "layers": 6,
    "value_embeddings": 2,
    "layer_without_attention": 3,
}
CONFIGURATION = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def shrunken():
    """A model of each kind that takes a step in milliseconds, all over bytes or a little more."""
    return {
        "bytes": Preset(name="bytes", layers=2, **SIZES),
        "tokens": TokenPreset(name="tokens", layers=2, vocabulary=300, **SIZES),
        "mixture": MixturePreset(
            name="mixture", layers=2, vocabulary=256, experts=4, chosen=2, **SIZES
        ),
        "value-gpt": ValueGPTPreset(name="value-gpt", scalars_for_all=False, **VALUE_GPT),
        "value-gpt, scalars for all": ValueGPTPreset(
            name="value-gpt-all", scalars_for_all=True, **VALUE_GPT
        ),
        "configuration": ConfigPreset(CONFIGURATION, context=16, batch=4),
    }


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
    """Figures take longer than the runs of these tests; they have tests of their own."""
    module = sys.modules["polargrad.language.train"]
    for name in ("draw_losses", "draw_spectra"):
        monkeypatch.setattr(module, name, lambda records, path, **named: path.write_bytes(b"PNG"))


@pytest.fixture(params=shrunken())
def kind(request):
    """A preset of each kind in turn."""
    return shrunken()[request.param]


@pytest.fixture
def small():
    """A preset of two blocks of width 16."""
    return Preset(name="small", layers=2, width=16, feed_forward=32, heads=2, context=16, batch=4)


@pytest.fixture
def tied():
    """A preset whose head is its embedding."""
    return ConfigPreset({**CONFIGURATION, "tie_word_embeddings": True}, context=16, batch=4)


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
