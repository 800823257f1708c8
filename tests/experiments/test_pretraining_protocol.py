"""A sweep as data: what is asked for, what is refused, and the runs it stands for."""

import json
from dataclasses import replace

import pytest

from polargrad.experiments.pretraining.protocol import Run, SweepProtocol, rounded
from polargrad.language import DEFAULTS, RECIPES
from polargrad.language.recipes import Defaults


def protocol(**changes):
    given = {"optimizers": ("adamw", "muon"), "steps": 400, "eval_every": 20}
    return SweepProtocol(**{**given, **changes})


@pytest.mark.parametrize("name", RECIPES)
def test_both_rates_of_every_optimizer_are_searched_from_its_defaults(name):
    """But for a rate that the run finds; adamw's second one begins where those of others lie."""
    (entrant,) = protocol(optimizers=(name,)).entrants
    second = RECIPES[name].second_rate
    lr = () if DEFAULTS[name].lr is None else ("lr",)
    assert entrant.axes == (*lr, second)
    expected = {
        "lr": DEFAULTS[name].lr,
        "vector_lr": DEFAULTS[name].vector_lr or 0.03,
        "embedding_lr": DEFAULTS[name].embedding_lr,
    }
    assert dict(entrant.centres) == {k: v for k, v in expected.items() if v is not None}


def test_with_one_rate_adamw_has_one_for_everything():
    first, second = protocol(rates="lr").entrants
    assert (first.centres, first.axes) == ((("lr", 0.001),), ("lr",))
    assert (dict(second.centres), second.axes) == ({"lr": 0.01, "vector_lr": 0.03}, ("lr",))


def test_a_run_is_some_factors_from_the_centres():
    p = protocol(factor=2.0)
    run = p.at(p.entrants[1], {"lr": -3, "vector_lr": 1}, seed=5)
    assert run == Run("muon", (("lr", 0.00125), ("vector_lr", 0.06)), 5)
    assert run.folder == "muon-lr_0.00125-vector_lr_0.06-seed_5"
    settings = p.settings(run)
    assert (settings.optimizer, settings.lr, settings.vector_lr) == ("muon", 0.00125, 0.06)
    assert (settings.seed, settings.steps, settings.eval_every) == (5, 400, 20)


def test_rates_of_a_grid_have_one_name_each():
    """Rounding keeps neighbours apart, and a rate is the same from wherever it is reached."""
    for factor in (1.1, 2**0.5, 10**0.5):
        rates = [rounded(0.03 * factor**k) for k in range(-12, 13)]
        assert len(set(rates)) == len(rates)
        assert [rounded(rate) for rate in rates] == rates


@pytest.mark.parametrize(
    ("steps", "eval_every", "expected"),
    [(400, 20, (100, 200, 400)), (300, 25, (75, 150, 300)), (10, 4, (4, 10)), (3, 100, (3,))],
)
def test_a_rung_is_where_the_loss_is_measured(steps, eval_every, expected):
    p = protocol(steps=steps, eval_every=eval_every)
    assert p.rung_steps == expected
    assert all(step % eval_every == 0 for step in p.rung_steps[:-1])


def test_an_optimizer_may_take_part_twice_with_other_methods():
    p = protocol(optimizers=("polarmuon", "polarmuon:qdwh"), centres={"polarmuon:qdwh.lr": 0.5})
    first, second = p.entrants
    assert (first.method, second.method) == (None, "qdwh")
    assert (first.title, second.title) == ("PolarMuon", "PolarMuon (qdwh)")
    run = p.at(second, {}, 0)
    assert run.folder.startswith("polarmuon_qdwh-lr_0.5-")
    assert p.settings(run).polar_method == "qdwh"
    assert dict(first.centres)["lr"] == DEFAULTS["polarmuon"].lr


def test_spectra_are_looked_at_in_the_runs_on_the_seeds_alone():
    p = protocol(watch_every=10, seeds=(1, 2))
    rates = p.entrants[0].centres
    assert [p.settings(Run("adamw", rates, seed)).watch_every for seed in (0, 1)] == [0, 10]


def test_what_the_runs_share_is_handed_on(tmp_path):
    path = str(tmp_path / "tokenizer.json")
    p = protocol(training={"preset": "tiny", "weight_decay": 0.1, "tokenizer": path})
    settings = p.settings(p.at(p.entrants[0], {}, 0), stop_after=7, out=tmp_path)
    assert (settings.preset, settings.weight_decay, settings.stop_after) == ("tiny", 0.1, 7)
    assert settings.tokenizer == tmp_path / "tokenizer.json"


def test_a_protocol_is_plain_data():
    p = protocol(
        centres={"muon.lr": 0.5}, rungs=(0.5, 1.0), seeds=(7,), training={"preset": "tiny"}
    )
    data = json.loads(json.dumps(p.as_data()))
    again = SweepProtocol.from_data(data)
    assert again.as_data() == data
    assert (again.entrants, again.rungs, again.seeds) == (p.entrants, p.rungs, p.seeds)


def test_as_data_it_does_not_depend_on_the_defaults(monkeypatch):
    """A sweep that was made by another version is read as it was."""
    p = protocol(optimizers=("adamw", "muon", "polargrad", "symmetric"))
    entrants, data = p.entrants, p.as_data()
    other = Defaults(lr=7.0, vector_lr=7.0, embedding_lr=None)
    for name in ("adamw", "muon"):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], defaults=other))
    assert SweepProtocol.from_data(data).entrants == entrants
    assert p.entrants != entrants


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": ()}, "optimizers must be at least one, each once, got"),
        ({"optimizers": ("muon", "muon")}, "optimizers must be at least one, each once"),
        ({"optimizers": ("sgd",)}, "unknown optimizer 'sgd'"),
        ({"optimizers": ("muon:qr",)}, "method"),
        ({"optimizers": ("adamw:qdwh",)}, "method='qdwh' has no effect: adamw takes no polar"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"eval_every": 0}, "eval_every must be at least 1, got 0"),
        ({"points": 4}, "points must be an odd number of at least 3, got 4"),
        ({"factor": 1.0}, "factor must be at least 1.1 and finite, got 1.0"),
        ({"rungs": (0.5, 0.25, 1.0)}, "rungs must be rising shares of which the last is 1"),
        ({"rungs": (0.5,)}, "rungs must be rising shares of which the last is 1"),
        ({"rungs": ()}, "rungs must be rising shares of which the last is 1"),
        ({"rates": "all"}, "rates must be 'lr' or 'both', got all"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"seeds": ()}, "seeds must be at least one, each once"),
        ({"seeds": (1, 1)}, "seeds must be at least one, each once"),
        ({"sweep_seed": -1}, "seeds must be from 0"),
        (
            {"centres": {"sgd.lr": 1.0}},
            "centres must be of adamw.lr, adamw.vector_lr, .* got sgd",
        ),
        ({"centres": {"muon.lr": 0.0}}, "centre muon.lr must be positive and finite, got 0.0"),
        ({"centres": {"muon.embedding_lr": 1.0}}, "centres must be of .*, got muon.embedding_lr"),
        ({"training": {"lr": 1.0}}, "training must be one of accumulate, .*, got lr"),
        ({"training": {"clip": [1]}}, "training clip must be plain data"),
        ({"training": {"beta2": 2.0}}, "beta2 must be at least 0 and less than 1, got 2.0"),
    ],
)
def test_what_makes_no_sweep_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        protocol(**changes)
