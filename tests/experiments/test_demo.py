"""The demonstration end to end, in small; and what it refuses to overwrite."""

import pytest
from pages import check_page
from small_experiments import POLARGRAD, small

from polargrad.errors import RunFolderError
from polargrad.experiments.demo import OPTIMIZERS, run_demo, summary
from polargrad.language import Preset

SMALL = Preset(name="small", layers=1, width=16, feed_forward=32, heads=2, context=8, batch=2)
SHORT = small(version="short", runs=(POLARGRAD,), steps=2, every=1, figures=())


def test_makes_a_report_and_can_be_run_again(tmp_path):
    out = tmp_path / "demo"
    for steps in (2, 3):
        report = run_demo(out, steps=steps, experiment=SHORT, preset=SMALL)
        assert report == out / "report.html"
    text = report.read_text(encoding="utf-8")
    check_page(text)
    assert "polargrad demo --steps 3 --seed 0" in text
    assert (out / "report.md").exists()
    table = summary(out)
    for name in (*OPTIMIZERS, "PolarGrad"):
        assert name in table


@pytest.mark.parametrize("name", ["thesis.tex", "language-sgd"])
def test_refuses_a_folder_with_other_files(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunFolderError, match=name):
        run_demo(tmp_path, steps=1, experiment=SHORT, preset=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_refuses_a_file(tmp_path):
    path = tmp_path / "demo"
    path.write_text("mine")
    with pytest.raises(RunFolderError, match="a file: give a folder"):
        run_demo(path, steps=1, experiment=SHORT, preset=SMALL)


def test_wrong_settings_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        run_demo(tmp_path / "demo", steps=0, experiment=SHORT, preset=SMALL)
    assert not (tmp_path / "demo").exists()
