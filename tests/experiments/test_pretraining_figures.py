"""What the figures of a sweep show, looked at before they become pictures."""

import itertools
import math

import pytest
from loss_surfaces import Valley, run_all
from pretraining_runs import matrices

from polargrad.experiments.pretraining import loss_figures, rate_figures
from polargrad.experiments.pretraining.comparison import Candidate
from polargrad.experiments.pretraining.curves import Curves, Point
from polargrad.experiments.pretraining.halving import standing
from polargrad.experiments.pretraining.loss_figures import draw_pretraining
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.experiments.pretraining.rate_figures import draw_rates


@pytest.fixture
def figures(monkeypatch):
    """The figures by the names of their files, none of which is written."""
    drawn = {}
    for module in (loss_figures, rate_figures):
        monkeypatch.setattr(module, "save_png", lambda figure, path: drawn.update({path: figure}))
    return drawn


@pytest.fixture
def protocol():
    return SweepProtocol(optimizers=("adamw", "muon"), steps=400, eval_every=20, seeds=(1, 2))


def curves(final, *, spectra=()):
    """A loss that falls from 8 to the final one, half of the way in a tenth of the tokens."""
    middle = (8 + final) / 2
    points = (Point(0, 0.0, 8.0), Point(100, 10.0, middle), Point(1000, 100.0, final))
    return Curves(
        settings={"steps": 400},
        session={},
        training=points,
        validation=points,
        optimizer_share=0.1,
        seconds_per_step=0.25,
        tokens_per_second=10.0,
        peak_memory=1,
        spectra=tuple(spectra),
    )


def candidates(protocol, finals, diverged=(), spectra=()):
    return [
        Candidate(
            protocol.entrant(name),
            protocol.entrant(name).centres,
            {seed: curves(final, spectra=spectra) for seed, final in enumerate(each, start=1)},
            diverged,
        )
        for name, each in finals.items()
    ]


def search(protocol, best, **options):
    losses = run_all(protocol, Valley(best, **options))
    return [standing(entrant, protocol, losses) for entrant in protocol.entrants]


def test_losses_are_means_of_seeds_against_tokens_and_time(figures, protocol, tmp_path):
    found = candidates(protocol, {"adamw": (3.0, 4.0), "muon": (2.0,)})
    paths = draw_pretraining(found, tmp_path, unit="token")
    assert [path.name for path in paths] == ["loss_tokens.png", "loss_time.png"]
    for path, last in zip(paths, (1000, 100.0), strict=True):
        training, validation = figures[path].axes
        for axis in (training, validation):
            lines = {line.get_label(): line for line in axis.lines}
            assert list(lines) == ["AdamW", "Muon"]
            assert list(lines["AdamW"].get_ydata()) == [8.0, 5.75, 3.5]
            assert lines["Muon"].get_xdata()[-1] == last
        # The fall from an untrained model is cut off: what is shown begins at a tenth.
        assert validation.get_ylim()[1] < 8.0
        assert validation.get_ylim()[0] < 2.0
    assert figures[paths[0]].axes[0].get_xlabel() == "tokens"


def test_what_diverged_on_every_seed_has_no_line(figures, protocol, tmp_path):
    found = candidates(protocol, {"adamw": (3.0,), "muon": ()}, diverged=(2,))
    (path, _) = draw_pretraining(found, tmp_path, unit="byte")
    assert [line.get_label() for line in figures[path].axes[1].lines] == ["AdamW"]
    assert draw_pretraining(found[1:], tmp_path, unit="byte") == []


def test_spectra_are_drawn_where_there_are_some(figures, protocol, tmp_path):
    looks = [{"step": step, "matrices": matrices("muon")} for step in (100, 200)]
    found = candidates(protocol, {"muon": (2.0, 2.0)}, spectra=looks)
    paths = draw_pretraining(found, tmp_path, unit="token")
    assert [path.name for path in paths[2:]] == ["spectra_tables.png", "spectra_hidden.png"]
    tables = {axis.get_title(): axis for axis in figures[paths[2]].axes}
    assert list(tables["κ₂, embedding, gradient"].lines[0].get_ydata()) == [100.0, 100.0]
    assert list(tables["κ₂, head, gradient"].lines[0].get_xdata()) == [100, 200]
    hidden = [axis.get_title() for axis in figures[paths[3]].axes]
    assert "nuclear norm, hidden, momentum" in hidden


def test_each_rung_has_the_points_that_came_to_it(figures, protocol, tmp_path):
    found = search(protocol, {"lr": 0.01, "vector_lr": 0.03})
    paths = draw_rates(protocol, found, [], tmp_path, unit="token")
    assert [path.name for path in paths] == ["rates_hidden.png", "rates_tables.png"]
    axes = figures[paths[0]].axes
    assert [axis.get_title() for axis in axes] == [
        "step 100 of 400",
        "step 200 of 400",
        "the whole run",
    ]
    muon = [next(line for line in axis.lines if line.get_label() == "Muon") for axis in axes]
    assert list(muon[0].get_xdata()) == [0.0025, 0.005, 0.01, 0.02, 0.04]
    assert [len(line.get_xdata()) for line in muon] == [5, 3, 2]


def test_the_best_of_every_optimizer_is_within_the_figure(figures, protocol, tmp_path):
    """And a rate that is far too large does not press the others together."""
    found = search(protocol, {"lr": 0.0025})
    (path, _) = draw_rates(protocol, found, [], tmp_path, unit="token")
    for axis in figures[path].axes:
        low, high = axis.get_ylim()
        best = [min(line.get_ydata()) for line in axis.lines]
        assert low < min(best)
        assert max(best) < high
        assert all(math.isfinite(loss) for line in axis.lines for loss in line.get_ydata())


def test_seeds_are_marked_at_the_best_point(figures, protocol, tmp_path):
    found = search(protocol, {"lr": 0.01, "vector_lr": 0.03})
    runs = candidates(protocol, {"muon": (2.0, 3.0)})
    (path, _) = draw_rates(protocol, found, runs, tmp_path, unit="token")
    first, _, last = figures[path].axes
    (bar,) = last.containers
    assert list(bar.lines[0].get_xdata()) == [0.01]
    assert list(bar.lines[0].get_ydata()) == [2.5]
    assert first.containers == []


@pytest.mark.parametrize("best", [1e-7, 0.003, 10.0])
def test_the_labels_of_rates_do_not_run_into_each_other(figures, tmp_path, best):
    names = ("adamw", "muon", "polarmuon", "muon-polarsgdm")
    p = SweepProtocol(optimizers=names, steps=400, eval_every=20)
    for path in draw_rates(p, search(p, {"lr": best}), [], tmp_path, unit="token"):
        figures[path].draw_without_rendering()
        for axis in figures[path].axes:
            low, high = sorted(axis.get_xlim())
            labels = axis.xaxis.get_ticklabels()
            shown = [x for x in labels if low <= x.get_position()[0] <= high and x.get_text()]
            boxes = [label.get_window_extent() for label in shown]
            assert len(boxes) >= 2
            for left, right in itertools.pairwise(sorted(boxes, key=lambda box: box.x0)):
                assert left.x1 < right.x0


def test_of_one_rate_there_is_one_figure(figures, tmp_path):
    p = SweepProtocol(optimizers=("muon",), steps=400, eval_every=20, rates="lr")
    paths = draw_rates(p, search(p, {"lr": 0.01}), [], tmp_path, unit="token")
    assert [path.name for path in paths] == ["rates_hidden.png"]
