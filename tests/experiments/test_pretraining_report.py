"""The report of a sweep: what it says, of finished and unfinished sweeps, and what others read."""

import csv
import io
import json

import pytest
from pages import check_page
from pretraining_runs import FakeTraining
from small_experiments import POLARGRAD, small

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import NOT_TESTED
from polargrad.experiments.paper_report import Sources, write_paper_report
from polargrad.experiments.pretraining import report as report_module
from polargrad.experiments.pretraining import run as run_module
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.experiments.pretraining.report import Sweep, write_sweep_report
from polargrad.experiments.pretraining.run import run_sweep
from polargrad.experiments.reproduce import EXPERIMENTS, reproduce

FOUR = ("adamw", "muon", "polarmuon", "muon-polarsgdm")


def protocol(**changes):
    given = {"optimizers": FOUR, "steps": 40, "eval_every": 5, "seeds": (1, 2), "points": 3}
    training = {"preset": "tiny"}
    return SweepProtocol(**{**given, "training": training, "watch_every": 10, **changes})


def write(monkeypatch, out, fake=None, **changes):
    """Run a sweep without training, or what is left of it, and write its report."""
    monkeypatch.setattr(run_module.gc, "collect", lambda: 0)
    monkeypatch.setattr(run_module, "train", fake or FakeTraining(look_every=10))
    p = protocol(**changes)
    run_sweep(out, p)
    write_sweep_report(Sweep.of(out, p, "polargrad sweep --steps 40"))
    return out


@pytest.fixture
def report(monkeypatch, tmp_path):
    """``report(fake)`` leaves the folder of a sweep with its report, but for the figures."""
    for name in ("draw_rates", "draw_pretraining"):
        monkeypatch.setattr(report_module, name, lambda *arguments, **options: [])
    return lambda fake=None, **changes: write(monkeypatch, tmp_path / "out", fake, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep that is finished, with all its figures. It is not to be changed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write(monkeypatch, tmp_path_factory.mktemp("finished") / "out")


def test_a_finished_sweep(finished):
    check_page((finished / "report.html").read_text(encoding="utf-8"))
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "not finished" not in text
    assert "1.1 M parameters, 2,560 tokens a run, 2 seeds" in text
    places = [
        text.index(f"\n{heading}\n")
        for heading in (
            "## The paper's claims",
            "## At the best learning rates",
            "### The way to AdamW's final loss",
            "### What a step costs",
            "## The search",
            "## To make this again",
        )
    ]
    assert places == sorted(places)
    assert "polargrad sweep --steps 40\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| Muon | 0.02 | 0.03")]
    assert rows == ["| Muon | 0.02 | 0.03 | 1.5100 | 1.5200 | 1.5150 | 0.0071 |"]
    assert "| AdamW | 500 | 128 | 25.0% | 25.0% … 25.0% | 100 |" in text
    # Of Muon's fall from 4.51 to 1.51, the first 2.5 of 3 bring it to AdamW's 2.01.
    assert "| Muon | 0.83 [0.83 … 0.83] | 0.83 [0.83 … 0.83] | 0.83" in text
    for name in ("loss_tokens", "loss_time", "rates_hidden", "rates_tables", "spectra_tables"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in text


def test_every_optimizer_is_said_to_have_had_the_same_budget(finished):
    text = (finished / "report.md").read_text(encoding="utf-8")
    table = text[text.index("| optimizer | steps of the grids") :].splitlines()[2:6]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]
    assert [row[0] for row in cells] == ["AdamW", "Muon", "PolarMuon", "Muon + PolarSGDM"]
    # The best rate is at the edge of a grid of three: each is extended once, and all alike.
    assert {tuple(row[1:]) for row in cells} == {("120", "40", "80", "240")}


def test_the_claims_are_judged(finished):
    data = json.loads((finished / "sweep.json").read_text())
    tables, matrices, condition = data["claims"]
    assert (tables["verdict"], tables["condition"]) == ("holds if", "it is compared with AdamW")
    assert matrices["verdict"] == "does not hold"  # 1.6 against 1.5
    assert (condition["verdict"], condition["condition"]) == ("holds if", "the embedding is meant")
    for found in data["claims"]:
        assert found["command"] == "polargrad sweep --steps 40"
        assert "preset tiny" in found["evidence"]


def test_the_summary_says_what_was_tried(finished):
    data = json.loads((finished / "sweep.json").read_text())
    assert data["finished"] is True
    assert data["protocol"] == json.loads(json.dumps(protocol().as_data()))
    muon = next(e for e in data["entrants"] if e["name"] == "muon")
    assert muon["rates"] == {"lr": 0.02, "vector_lr": 0.03}
    first = muon["lines"][0]
    assert (first["rate"], first["extended_by"], first["at_edge"]) == ("lr", 1, False)
    tried = [point["rates"]["lr"] for point in first["points"]]
    assert tried == [0.005, 0.01, 0.02, 0.04]
    assert muon["final_losses"] == {"1": 1.51, "2": 1.52}


def test_every_session_is_a_line(finished):
    rows = list(csv.DictReader(io.StringIO((finished / "sessions.csv").read_text())))
    assert len(rows) == len((finished / "results.jsonl").read_text().splitlines())
    last = rows[-1]
    assert (last["optimizer"], last["seed"], last["step"]) == ("muon-polarsgdm", "2", "40")
    assert (last["lr"], last["embedding_lr"]) == ("0.04", "0.05")
    assert float(last["validation_loss"]) == 1.82


@pytest.mark.parametrize("calls", [2, 12, 40])
def test_an_unfinished_sweep_has_a_report_that_says_so(report, calls):
    out = report(FakeTraining(interrupt_at=calls))
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "The search is not finished" in text
    assert "## At the best learning rates" not in text
    data = json.loads((out / "sweep.json").read_text())
    assert data["finished"] is False
    assert {claim["verdict"] for claim in data["claims"]} == {NOT_TESTED}


def test_a_sweep_that_is_stopped_among_its_seeds_shows_what_there_is(report):
    whole = FakeTraining()
    report(whole)
    report(FakeTraining(interrupt_at=1), seeds=(1, 2, 3))
    text = (report(FakeTraining(interrupt_at=2), seeds=(1, 2, 3)) / "report.md").read_text()
    assert "The sweep is not finished: this is what there is of it." in text
    assert "| optimizer | lr | of embedding and head | seed 1 | seed 2 | seed 3 | mean |" in text


def test_without_adamw_there_is_no_way_to_its_loss(report):
    text = (report(optimizers=("muon", "polarmuon")) / "report.md").read_text(encoding="utf-8")
    assert "The way to" not in text
    assert "there is no run of muon-polarsgdm, adamw" in text


@pytest.fixture
def paper(monkeypatch, tmp_path):
    """``paper(folder)`` writes the paper's report with a sweep in ``folder``; returns its text."""
    made = small(name="quadratic", section="6.1", runs=(POLARGRAD,), figures=())
    monkeypatch.setitem(EXPERIMENTS, "quadratic", lambda **options: made)
    reproduce(tmp_path / "reproduce", [made], seeds=(42,), workers=1)

    def write(pretraining):
        page = write_paper_report(
            tmp_path, Sources(tmp_path / "reproduce", pretraining=pretraining)
        )
        check_page(page.read_text(encoding="utf-8"))
        return page.with_suffix(".md").read_text(encoding="utf-8")

    return write


def test_the_paper_s_report_takes_up_claims_and_results(paper, finished, tmp_path):
    text = paper(finished)
    rows = [line for line in text.splitlines() if line.startswith("| Language-model pre-training")]
    assert len(rows) == 3
    assert all("`polargrad sweep --steps 40`" in row for row in rows)
    assert "\n## Language-model pre-training\n" in text
    assert "| Muon | 0.02 | 0.03 | 1.5100 | 1.5200 |" in text
    assert "\npolargrad sweep --steps 40\n" in text
    without = paper(tmp_path / "none")
    rows = [line for line in without.splitlines() if line.startswith("| Language-model")]
    assert len(rows) == 3
    assert all("| not tested | `polargrad sweep --preset small` |" in row for row in rows)
    assert "## Language-model pre-training" not in without


def test_the_paper_s_report_leaves_out_a_sweep_that_has_no_results_yet(paper, report):
    text = paper(report(FakeTraining(interrupt_at=5)))
    assert "## Language-model pre-training" not in text
    assert text.count("| not tested | `polargrad sweep --steps 40` |") == 3


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match="holds no finished session yet"):
        write_sweep_report(Sweep.of(tmp_path, protocol()))


def test_a_damaged_run_is_named(report):
    out = report()
    (out / "runs" / "muon-lr_0.02-vector_lr_0.03-seed_1" / "records.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"muon-lr_0.02.*does not hold a finished training"):
        Sweep.read(out)
    (out / "sweep.json").write_text("{}")
    with pytest.raises(RunFolderError, match="is not of a sweep"):
        Sweep.read(out)
