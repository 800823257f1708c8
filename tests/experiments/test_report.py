"""The report's parts: tables that hold the numbers of the records, and nothing unescaped."""

import json
import re

import pytest
from pages import check_page
from small_experiments import ADAM, DESCENT, DIVERGING, small

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import HOLDS, HOLDS_IF, Claim
from polargrad.experiments.experiment import Figure, Panel, Run
from polargrad.experiments.language_results import LOSS_FIGURE, LanguageRun, draw_language
from polargrad.experiments.published import published_traces
from polargrad.experiments.quadratic import build
from polargrad.experiments.report import (
    claims_section,
    commands_section,
    experiment_section,
    language_section,
    settings_section,
    write_report,
)
from polargrad.experiments.reproduce import reproduce
from polargrad.experiments.results import Results
from polargrad.records.document import Heading, Picture, Table

HOSTILE = '<script>alert("x")</script> & co'


def language_folder(folder, optimizer, losses):
    folder.mkdir()
    preset = {"layers": 1, "width": 8, "context": 4}
    settings = {"optimizer": optimizer, "lr": 0.1, "vector_lr": None, "steps": 2, "seed": 0}
    settings |= {"preset": preset, "windows_per_step": 2}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "provenance.json").write_text(json.dumps([{"torch": HOSTILE}]))
    records = [
        {"step": step, "loss": loss, "validation_loss": loss, "seconds": 0.5}
        for step, loss in enumerate(losses)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of all parts, with the published problem at seed 42 so that it is compared."""
    tmp_path = tmp_path_factory.mktemp("report")
    run = Run(name="polargrad", label=HOSTILE, solver="adam", lr=0.05)
    figure = Figure(
        name="gap", runs=("polargrad",), panels=(Panel(quantity="gap", title="g"),), caption=HOSTILE
    )
    experiment = small(
        version="tiny", runs=(run,), figures=(figure,), build=build, oracle="published", steps=2
    )
    folder = reproduce(tmp_path, [experiment], seeds=(42,), workers=1).folders["quadratic"]
    runs = [
        LanguageRun.read(language_folder(tmp_path / "a", "muon", [5.5, 4.0, 3.25])),
        LanguageRun.read(language_folder(tmp_path / "b", "adamw", [5.5, 4.5, 3.75])),
    ]
    draw_language(runs, tmp_path / LOSS_FIGURE)
    blocks = [
        *claims_section([Claim(HOSTILE, HOSTILE, HOLDS_IF, "polargrad x", HOSTILE)]),
        *experiment_section(experiment, Results.read(folder), folder),
        *language_section(runs, tmp_path / LOSS_FIGURE),
        *commands_section({"it": HOSTILE}),
        *settings_section({HOSTILE: {"lr": 0.05}}, {"torch": HOSTILE, "other": "left out"}),
    ]
    path = write_report(tmp_path, "report", "Title", blocks)
    assert path == tmp_path / "report.html"
    return path


def test_the_page_is_well_formed_and_loads_nothing(page):
    checker = check_page(page.read_text(encoding="utf-8"))
    assert checker.tags.count("img") == 2


def test_nothing_is_unescaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; co" in text


def test_tables_hold_the_numbers_of_the_records(page):
    cells = re.findall(r"<td>(.*?)</td>", page.read_text(encoding="utf-8"))
    for text in ("muon", "3.2500", "+0.0000", "adamw", "3.7500", "+0.5000", "500"):
        assert text in cells
    assert "left out" not in cells


def test_the_same_report_stands_beside_it_as_markdown(page):
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "| muon | 0.1 |  | 3.2500 | +0.0000 | 500 |" in text
    assert "](quadratic/gap-42.png)" in text
    assert "](language.png)" in text
    for title in ("The paper's claims", "Matrix quadratic regression (6.1)"):
        assert f"## {title}" in text


def test_each_claim_is_a_row_with_its_verdict_and_command():
    claims = [
        Claim("a", "1.5", HOLDS, "polargrad theory"),
        Claim("b", "2.5", HOLDS_IF, "polargrad reproduce all", "it rains"),
    ]
    (table,) = tables(claims_section(claims))
    assert table.text
    assert list(table.rows) == [
        ["a", "1.5", "holds", "`polargrad theory`"],
        ["b", "2.5", "holds if it rains", "`polargrad reproduce all`"],
    ]


def test_a_row_of_each_run_with_its_range_over_seeds(tmp_path):
    experiment = small(runs=(ADAM, DESCENT, DIVERGING), figures=())
    folder = reproduce(tmp_path, [experiment], seeds=(1, 2, 3), workers=1).folders["quadratic"]
    results = Results.read(folder)
    summary, constants = tables(experiment_section(experiment, results, folder))
    rows = {row[0]: row[1:] for row in summary.rows}
    adam, descent = sorted(results.finals("adam")), sorted(results.finals("gradient-descent"))
    assert rows["Adam"][:5] == [
        "0.05",
        "",
        "6",
        f"{adam[1]:.3g}",
        f"{adam[0]:.3g} … {adam[2]:.3g}",
    ]
    assert rows["descent"][:4] == ["–", "", "4", f"{descent[1]:.3g}"]
    assert rows["Newton"][3:5] == ["diverged", ""]
    assert all(float(cell) >= 0 for row in rows.values() for cell in row[-2:])
    assert [row[0] for row in constants.rows] == ["1", "2", "3"]
    assert list(constants.heads) == ["seed", "L", "μ", "κ_H", "f*"]
    for row in constants.rows:
        smoothness, convexity, condition, _ = map(float, row[1:])
        assert smoothness / convexity == pytest.approx(condition, rel=1e-4)


def test_without_timing_the_cells_are_empty(tmp_path):
    experiment = small(figures=())
    folder = reproduce(tmp_path, [experiment], seeds=(1,), workers=1).folders["quadratic"]
    (folder / "timing.json").unlink()
    summary, _ = tables(experiment_section(experiment, Results.read(folder), folder))
    assert all(list(row[-2:]) == ["", ""] for row in summary.rows)


def compared(factor):
    """The section of a run that has ``factor`` times the published values."""
    run = Run(name="polargrad", label="PolarGrad", solver="polargrad")
    experiment = small(oracle="published", runs=(run,), figures=())
    values = published_traces()["traces"]["quadratic"]["polargrad"]
    curve = [{"step": int(step), "gap": factor * v} for step, v in values.items()]
    curve[-1]["ended"] = "budget"
    results = Results(experiment.as_data(), [], {42: {"polargrad": curve}}, {}, {})
    blocks = experiment_section(experiment, results, None)
    return blocks, tables(blocks)[-1]


def test_agreement_with_the_published_code_is_counted():
    blocks, table = compared(1.001)
    assert "9 of 9 values of seed 42 agree" in blocks[-2].text
    assert "Here are some of them" in blocks[-2].text
    assert list(table.rows[0]) == ["PolarGrad", "10", "1.802e+06", "1.804e+06", "+0.10%", "2%"]
    assert [row[1] for row in table.rows] == ["10", "100", "1000"]


def test_what_counts_as_agreement_is_said():
    (first, *_), last = compared(3.0)[1].rows, compared(3.0)[1].rows[-1]
    assert (first[1], first[5]) == ("0", "2%")
    assert (last[1], last[4], last[5]) == ("4000", "+200.00%", "a factor of 2")


def test_disagreement_is_shown_first():
    blocks, table = compared(1.03)
    assert "5 of 9 values of seed 42 agree" in blocks[-2].text
    assert "Here are those that do not" in blocks[-2].text
    assert [row[1] for row in table.rows] == ["0", "10", "50", "100"]
    assert {row[4] for row in table.rows} == {"+3.00%"}


def test_other_settings_are_not_compared_with_the_published_code(tmp_path):
    experiment = small()
    folder = reproduce(tmp_path, [experiment], seeds=(1,), workers=1).folders["quadratic"]
    blocks = experiment_section(experiment, Results.read(folder), folder)
    assert not any(isinstance(b, Heading) and b.level == 3 for b in blocks)
    (picture,) = (b for b in blocks if isinstance(b, Picture))
    assert picture.path == folder / "gap-1.png"
    assert picture.caption == "What falls. Seed 1."


def test_a_folder_without_a_training_run_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(RunFolderError, match="does not hold a training run"):
        LanguageRun.read(tmp_path)
