"""The report: one file, well formed, with nothing outside itself, and nothing unescaped."""

import json
import re
from html.parser import HTMLParser

import pytest

from polargrad.errors import RunFolderError
from polargrad.experiments import reproduce_quadratic
from polargrad.experiments.language_results import LanguageRun
from polargrad.experiments.protocol import Protocol, Run
from polargrad.experiments.report import write_report

VOID = {"meta", "img", "br", "link"}
HOSTILE = '<script>alert("x")</script> & co'


class Checker(HTMLParser):
    """Keeps the tags that are open, and everything that would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def language_folder(folder, optimizer, losses):
    folder.mkdir()
    preset = {"layers": 1, "width": 8, "batch": 2, "context": 4}
    settings = {"optimizer": optimizer, "lr": 0.1, "vector_lr": None, "steps": 2, "seed": 0}
    (folder / "settings.json").write_text(json.dumps({**settings, "preset": preset}))
    (folder / "provenance.json").write_text(json.dumps([{"torch": HOSTILE}]))
    records = [
        {"step": step, "loss": loss, "validation_loss": loss, "seconds": 0.5}
        for step, loss in enumerate(losses)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@pytest.fixture
def page(tmp_path):
    runs = (Run(name="polargrad", label=HOSTILE, optimizer="adam", lr=0.05),)
    protocol = Protocol(version="tiny", runs=runs, steps=2, every=1)
    reproduce_quadratic(tmp_path / "quadratic", protocol=protocol, seed=42)
    language = [
        language_folder(tmp_path / "a", "muon", [5.5, 4.0, 3.25]),
        language_folder(tmp_path / "b", "adamw", [5.5, 4.5, 3.75]),
    ]
    path = tmp_path / "report.html"
    write_report(
        path, quadratic=tmp_path / "quadratic", language=language, commands={"it": HOSTILE}
    )
    return path.read_text(encoding="utf-8")


def test_is_well_formed_and_loads_nothing(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in checker.loaded)
    assert "url(" not in page
    assert "@import" not in page


def test_nothing_is_unescaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; co" in page


def test_tables_hold_the_numbers_of_the_records(page):
    cells = re.findall(r"<td>(.*?)</td>", page)
    for text in ("muon", "3.2500", "+0.0000", "adamw", "3.7500", "+0.5000", "500"):
        assert text in cells
    assert "2.142e+09" in cells  # the gap at step 0, beside the published one


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(RunFolderError, match="does not hold a training run"):
        LanguageRun.read(tmp_path)
