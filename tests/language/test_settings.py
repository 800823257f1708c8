"""Settings are checked where they are given, and say which runs are the same."""

from pathlib import Path

import pytest

from polargrad.language import DEFAULTS, TrainSettings


def make(**changes):
    return TrainSettings(**{"optimizer": "polargrad", "steps": 5, "out": Path("out"), **changes})


REFUSED = [
    ({"optimizer": "sgd"}, "unknown optimizer 'sgd': choose from polargrad, muon, adamw"),
    ({"preset": "huge"}, "unknown preset 'huge': choose from tiny"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"eval_every": 0}, "eval_every must be at least 1, got 0"),
    ({"eval_windows": 0}, "eval_windows must be at least 1, got 0"),
    ({"checkpoint_every": -3}, "checkpoint_every must be at least 1, got -3"),
    ({"keep": 0}, "keep must be at least 1, got 0"),
    ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"stop_after": 0}, "stop_after must be at least 1, got 0"),
    ({"limit": 0}, "limit must be at least 1, got 0"),
    ({"watch_every": -1}, "watch_every must be at least 0, got -1"),
    ({"clip": 0.0}, "clip must be positive and finite, got 0.0"),
    ({"schedule": "step"}, "unknown schedule 'step': choose from linear, cosine, wsd, constant"),
    ({"warmup": -1}, "warmup must be at least 0, got -1"),
    ({"decay_share": 2.0}, "decay_share must be above 0 and at most 1, got 2.0"),
    ({"precision": "fp16"}, "unknown precision 'fp16': choose from no, bf16, auto"),
    ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
    ({"seed": 2**32}, "seed must be from 0 to 4294967295, got 4294967296"),
    ({"lr": -1.0}, "lr must be positive and finite, got -1.0"),
    ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
    ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
    ({"vector_lr": float("inf")}, "vector_lr must be positive and finite, got inf"),
    ({"beta2": 1.0}, "beta2 must be at least 0 and less than 1, got 1.0"),
    ({"beta2": -0.1}, "beta2 must be at least 0 and less than 1, got -0.1"),
    ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite, got -0.1"),
    ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
    ({"data": Path("a"), "out": Path("a/b")}, "out is 'a/b' and data is 'a': neither may lie"),
    ({"data": Path("a/b.txt"), "out": Path("a")}, "neither may lie within the other"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


@pytest.mark.parametrize("name", DEFAULTS)
def test_learning_rates_have_defaults_and_can_be_given(name):
    assert make(optimizer=name).learning_rate == DEFAULTS[name].lr
    assert make(optimizer=name, lr=0.5).learning_rate == 0.5
    assert make(optimizer=name).vector_learning_rate == DEFAULTS[name].vector_lr


def test_the_identity_holds_what_changes_the_numbers(settings, tmp_path):
    base = settings().identity("digest")
    changes = [
        {"optimizer": "muon"},
        {"steps": 9},
        {"seed": 1},
        {"lr": 0.1},
        {"beta2": 0.9},
        {"weight_decay": 0.1},
        {"schedule": "wsd"},
        {"warmup": 1},
        {"decay_share": 0.3},
        {"clip": 1.0},
        {"precision": "bf16"},
        {"batch": 8},
        {"accumulate": 2},
        {"eval_every": 4},
        {"eval_windows": 4},
        {"preset": "tiny"},
    ]
    for change in changes:
        assert settings(**change).identity("digest") != base, change
    assert settings().identity("another") != base
    assert settings().identity("digest", ranks=2) != base


def test_what_changes_no_number_is_not_in_the_identity(settings, tmp_path):
    base = settings().identity("digest")
    changes = [
        {"out": tmp_path / "b"},
        {"checkpoint_every": 9},
        {"keep": 5},
        {"watch_every": 2},
        {"stop_after": 3},
        {"tracker": "tensorboard"},
        {"cache": tmp_path},
        {"overwrite": True},
        {"lr": 1e-3},  # the default
        {"decay_share": 0.4},  # the default
    ]
    for change in changes:
        assert settings(**change).identity("digest") == base, change
    twice = settings(accumulate=2).identity("digest")
    assert settings().identity("digest", ranks=2) == twice
    assert settings(batch=8).identity("digest") == twice
    assert settings(precision="auto").identity("digest", precision="no") == base


def test_a_batch_replaces_that_of_the_preset():
    assert make().model_preset.batch == 16
    assert make(batch=3).model_preset.batch == 3
