"""The figures of a run: what they draw, from records whole or sparse."""

import json

import pytest

from polargrad.language import curves
from polargrad.language.curves import draw_losses, draw_spectra


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, in the place of their files."""
    figures = []
    monkeypatch.setattr(curves, "save_png", lambda figure, path: figures.append(figure))
    return figures


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


LOSSES = [
    {"step": 0, "validation_loss": 5.0},
    {"step": 1, "loss": 4.0, "tokens": 64, "seconds": 0.5},
    {"step": 2, "loss": 3.0, "tokens": 128, "seconds": 1.5, "validation_loss": 3.5},
]


def test_losses_are_drawn_against_tokens_and_against_time(tmp_path, drawn):
    draw_losses(write(tmp_path / "r.jsonl", LOSSES), tmp_path / "a.png", title="a", unit="byte")
    ((tokens, seconds),) = [figure.axes for figure in drawn]
    data = [[line.get_xydata().tolist() for line in axis.lines] for axis in (tokens, seconds)]
    assert data[0] == [[[64, 4], [128, 3]], [[0, 5], [128, 3.5]]]
    assert data[1] == [[[0.5, 4], [2.0, 3]], [[0, 5], [2.0, 3.5]]]
    assert (tokens.get_xlabel(), tokens.get_ylabel()) == ("bytes", "cross-entropy (nats per byte)")
    assert seconds.get_xlabel() == "seconds"


def test_a_run_that_has_not_begun_has_a_figure_too(tmp_path):
    draw_losses(write(tmp_path / "r.jsonl", []), tmp_path / "a.png", title="a", unit="token")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def matrix(role, number, momentum=None):
    measured = {"condition_number": 10.0**number, "nuclear_norm": float(number)}
    record = {"role": role, "gradient": measured}
    return record if momentum is None else {**record, "momentum": momentum}


def test_spectra_are_medians_within_their_range(tmp_path, drawn):
    momentum = {"condition_number": 7.0, "nuclear_norm": 0.0}
    hidden = [matrix(role, n, momentum) for n, role in ((1, "down"), (2, "output"), (6, "down"))]
    records = [
        {"step": step, "matrices": [matrix("head", 3), matrix("embedding", 2), *hidden]}
        for step in (5, 10)
    ]
    draw_spectra(write(tmp_path / "s.jsonl", records), tmp_path / "a.png", title="a")
    axes = drawn[0].axes
    lines = [{line.get_label(): line.get_ydata()[0] for line in axis.lines} for axis in axes]
    assert lines == [
        {"gradient, embedding": 100.0, "gradient, head": 1000.0},
        {"gradient, embedding": 2.0, "gradient, head": 3.0},
        {"gradient": 100.0, "momentum": 7.0},
        {"gradient": 2.0},  # a zero has no place on this axis
    ]
    low, high = axes[2].collections[0].get_datalim(axes[2].transData).intervaly
    assert (low, high) == (10.0, 1e6)
    assert all(axis.get_yscale() == "log" for axis in axes)
