"""Figures of an experiment: the published averages, and which lines are drawn how."""

import math

import pytest
from small_experiments import (
    DIVERGING,
    GAP,
    POLARGRAD,
    SMALL,
    completion_task,
    logistic_task,
    quadratic_task,
    small,
)

from polargrad.experiments import figures as module
from polargrad.experiments.experiment import BASELINE
from polargrad.experiments.figures import (
    FAMILIES,
    draw_all,
    figure_file,
    positive,
    smoothed,
    styles,
)
from polargrad.experiments.reproduce import EXPERIMENTS, choose
from polargrad.experiments.results import Results
from polargrad.records.figures import COLOURS

SMALL_TASKS = {
    "quadratic": quadratic_task,
    "logistic": logistic_task,
    "completion": completion_task,
}


def test_the_average_of_every_step_is_the_published_one():
    """s ← w s + (1 − w) x, begun with the first value."""
    values = [4.0, 0.0, 8.0, -2.0]
    expected, s = [4.0], 4.0
    for x in values[1:]:
        s = 0.8 * s + 0.2 * x
        expected.append(s)
    assert smoothed(range(4), values, weight=0.8) == pytest.approx(expected)
    assert smoothed([], [], weight=0.5) == []


def test_the_average_of_samples_weighs_the_steps_between_them():
    """As if the value had stood in each of them: samples 10 steps apart weigh w to the tenth."""
    found = smoothed([0, 10, 11], [1.0, 3.0, 5.0], weight=0.9)
    every = smoothed(range(12), [1.0] + [3.0] * 10 + [5.0], weight=0.9)
    assert found == pytest.approx([every[0], every[10], every[11]])


def test_the_average_begins_again_after_a_gap():
    values = [1.0, float("inf"), 3.0, float("nan"), 5.0]
    found = smoothed(range(5), values, weight=0.5)
    assert found[0] == 1.0
    assert found[1] == math.inf
    assert found[2] == 3.0
    assert math.isnan(found[3])
    assert found[4] == 5.0


def test_logarithms_leave_gaps():
    kept = positive([1.0, 0.0, -1.0, float("inf"), float("nan")])
    assert kept[0] == 1.0
    assert all(value != value for value in kept[1:])


def results(experiment, curves):
    return Results(experiment.as_data(), [], {42: curves}, {}, {})


def curve(values, ended="budget"):
    records = [
        {"step": 2 * k, "gap": v, "nuclear_norm": v, "quantity": v} for k, v in enumerate(values)
    ]
    records[-1]["ended"] = ended
    return records


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that are drawn, by file."""
    found = {}
    panels = module.panels

    def kept(titles, **options):
        figure, axes = panels(titles, **options)
        found.setdefault("titles", []).append(titles)
        found.setdefault("axes", []).append(axes)
        return figure, axes

    monkeypatch.setattr(module, "panels", kept)
    return found


def test_lines_panels_and_files(drawn, tmp_path):
    found = results(
        SMALL, {"polargrad": curve([8.0, 4.0, 0.0, 1.0]), "gradient-descent": curve([8.0, 6.0])}
    )
    draw_all(SMALL, found, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gap-42.png"]
    assert figure_file(GAP.name, 42) == "gap-42.png"
    assert drawn["titles"] == [["gap (small version)", "norm"]]
    ((gap, norm),) = drawn["axes"]
    ours, descent = gap.get_lines()
    assert (ours.get_label(), descent.get_label()) == ("PolarGrad", "descent")
    assert list(ours.get_xdata()) == [0, 2, 4, 6]
    assert list(ours.get_ydata())[:2] == [8.0, 4.0]
    assert math.isnan(ours.get_ydata()[2])  # 0 has no logarithm
    assert gap.get_yscale() == "log"
    assert norm.get_yscale() == "linear"
    smooth = norm.get_lines()[0]
    assert list(smooth.get_xdata()) == [0, 2, 4]  # until step 4
    assert list(smooth.get_ydata()) == pytest.approx(smoothed([0, 2, 4], [8.0, 4.0, 0.0], 0.8))


def test_a_run_that_diverged_is_labelled_so(drawn, tmp_path):
    experiment = small(runs=(POLARGRAD, DIVERGING), figures=(small_figure("polargrad", "newton"),))
    lost = curve([8.0, float("nan")], ended="diverged")
    draw_all(experiment, results(experiment, {"polargrad": curve([8.0]), "newton": lost}), tmp_path)
    labels = [line.get_label() for line in drawn["axes"][0][0].get_lines()]
    assert labels == ["PolarGrad", "Newton (diverged)"]


def small_figure(*runs):
    return module.Figure(name="f", runs=runs, panels=GAP.panels[:1], caption="c")


VERSIONS = [
    (name, era, quick)
    for name in EXPERIMENTS
    for era in ("reference", "paper")
    for quick in (False, True)
]


@pytest.mark.parametrize(("name", "era", "quick"), VERSIONS)
def test_lines_of_a_figure_are_told_apart(name, era, quick):
    """Each has its own colour and dashes; a family has one colour, which no baseline has."""
    (experiment,) = choose([name], quick=quick, era=era)
    by_name = {run.name: run for run in experiment.runs}
    assert len({run.label for run in experiment.runs}) == len(by_name) == len(experiment.runs)
    assert len({figure.name for figure in experiment.figures}) == len(experiment.figures)
    for figure in experiment.figures:
        runs = [by_name[run] for run in figure.runs]
        found = styles(runs)
        assert len({(s["color"], s["linestyle"]) for s in found}) == len(runs) > 0
        for run, style in zip(runs, found, strict=True):
            if run.group == BASELINE:
                assert style["color"] not in COLOURS[: len(FAMILIES)]
            else:
                assert style["color"] == COLOURS[FAMILIES.index(run.solver)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_figure_can_be_drawn_from_what_its_task_measures(name, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "save_png", lambda figure, path: path.touch())  # the slow part
    (experiment,) = choose([name])
    task = SMALL_TASKS[name]()
    task.advance()
    record = {"step": 0, **task.measure(task.start), "ended": "budget"}
    draw_all(
        experiment, results(experiment, {run.name: [record] for run in experiment.runs}), tmp_path
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        figure_file(figure.name, 42) for figure in experiment.figures
    }
    for figure, axes in zip(experiment.figures, drawn["axes"], strict=True):
        for axis in axes:
            assert len(axis.get_lines()) == len(figure.runs)
