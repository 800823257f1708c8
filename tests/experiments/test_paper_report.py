"""The report of what is in a folder: claims first, then each experiment that has been run."""

import pytest
from pages import check_page
from small_experiments import ADAM, POLARGRAD, small

from polargrad.errors import RunFolderError
from polargrad.experiments.paper_report import TITLE, Sources, write_paper_report
from polargrad.experiments.reproduce import EXPERIMENTS, reproduce

SECTIONS = {"quadratic": "6.1", "logistic": "6.2", "completion": "6.3"}


@pytest.fixture
def experiments(monkeypatch):
    """Small ones in the place of the three."""

    def tiny(name):
        def make(*, quick=False, era="reference", oracle="published"):
            return small(
                name=name,
                title=f"Small {name}",
                section=SECTIONS[name],
                version="quick" if quick else "full",
                era=era,
                oracle=oracle,
                runs=(POLARGRAD, ADAM),
                figures=(),
            )

        return make

    for name in SECTIONS:
        monkeypatch.setitem(EXPERIMENTS, name, tiny(name))
    return EXPERIMENTS


def write(out, experiments, names, seeds=(42,), **options):
    chosen = [experiments[name](**options) for name in names]
    reproduce(out, chosen, seeds=seeds, workers=1)
    page = write_paper_report(out, Sources(reproduce=out))
    assert page == out / "report.html"
    return page.read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


def test_all_experiments_in_one_report(tmp_path, experiments):
    page, text = write(tmp_path, experiments, list(SECTIONS), quick=True)
    check_page(page)
    assert text.startswith(f"# {TITLE}\n")
    places = [
        text.index(f"## {title}")
        for title in (
            "The paper's claims",
            "Small quadratic (6.1)",
            "Small logistic (6.2)",
            "Small completion (6.3)",
            "To make this again",
            "Settings and versions",
        )
    ]
    assert places == sorted(places)
    assert "polargrad reproduce all --quick\n" in text
    assert "polargrad reproduce logistic --quick\n" in text
    assert '"steps": 6' in text


def test_what_was_not_run_is_not_tested(tmp_path, experiments):
    _, text = write(tmp_path, experiments, ["quadratic"], era="paper", oracle="exact")
    assert "## Small logistic" not in text
    assert "polargrad reproduce all" not in text
    assert "polargrad reproduce quadratic --era paper --oracle exact --seeds 42\n" in text
    rows = [line for line in text.splitlines() if "(6.3" in line and line.startswith("|")]
    assert len(rows) == 3
    assert all("| not tested | `polargrad reproduce completion` |" in row for row in rows)


def test_a_folder_without_an_experiment_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="holds no finished experiment"):
        write_paper_report(tmp_path, Sources(reproduce=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_quick_version_says_what_it_is(tmp_path, experiments):
    page, _ = write(tmp_path / "quick", experiments, ["quadratic"], quick=True)
    assert "This is the quick version" in page
    page, _ = write(tmp_path / "full", experiments, ["quadratic"])
    assert "quick version" not in page


def test_parts_that_were_not_run_are_left_out_and_their_commands_named(tmp_path, experiments):
    """An empty folder of another command is as good as none; the report may stand elsewhere."""
    runs = tmp_path / "runs"
    reproduce(runs, [experiments["quadratic"]()], seeds=(42,), workers=1)
    sources = Sources(runs, tmp_path / "theory", tmp_path / "sensitivity", tmp_path / "insights")
    (tmp_path / "docs").mkdir()
    page = write_paper_report(tmp_path / "docs", sources)
    check_page(page.read_text(encoding="utf-8"))
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "## Theory" not in text
    assert "polargrad theory\n" in text
    assert not (runs / "report.html").exists()
