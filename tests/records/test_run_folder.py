"""A folder belongs to one run: what may take it, what is refused, what is deleted."""

import json

import pytest

from polargrad.errors import RunFolderError
from polargrad.records import RunFolder

SETTINGS = {"lr": 0.1, "shape": (2, 3)}


@pytest.fixture
def taken(tmp_path):
    """A folder with a run, its records and a subfolder."""
    path = tmp_path / "out"
    RunFolder.claim(path, SETTINGS)
    (path / "records.jsonl").write_text("{}\n")
    (path / "plots").mkdir()
    (path / "plots" / "a.png").write_text("")
    return path


def contents(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_taken(tmp_path, exists):
    path = tmp_path / "a" / "b"
    if exists:
        path.mkdir(parents=True)
    assert RunFolder.claim(path, SETTINGS).path == path
    found = json.loads((path / "settings.json").read_text())
    assert (found["lr"], found["shape"]) == (0.1, [2, 3])


def test_a_folder_whose_run_was_killed_before_all_else_is_taken(tmp_path):
    """While the mark was written: what is left of it is nobody's."""
    (tmp_path / ".settings.json.x7.part").write_text('{"wri')
    assert RunFolder.claim(tmp_path, SETTINGS).path == tmp_path
    with pytest.raises(RunFolderError, match="already holds this run"):
        RunFolder.claim(tmp_path, SETTINGS)


def test_the_same_run_is_taken_again_to_resume_it(taken):
    before = contents(taken)
    RunFolder.claim(taken, SETTINGS, resume=True)
    assert contents(taken) == before


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (SETTINGS, {}, "already holds this run: resume it, overwrite it or give another"),
        ({**SETTINGS, "lr": 0.2}, {}, r"other settings \(lr: 0.1 there, 0.2 here\)"),
        ({**SETTINGS, "lr": 0.2}, {"resume": True}, r"\(lr: 0.1 there, 0.2 here\)"),
        ({"lr": 0.1}, {"resume": True}, r"shape: \[2, 3\] there, None here"),
        ({**SETTINGS, "new": 1}, {"resume": True}, "new: None there, 1 here"),
    ],
)
def test_another_run_is_refused_and_nothing_is_changed(taken, settings, options, message):
    before = contents(taken)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.claim(taken, settings, **options)
    assert contents(taken) == before


def test_overwriting_empties_the_folder(taken):
    RunFolder.claim(taken, {"lr": 0.3}, overwrite=True)
    assert [path.name for path in taken.iterdir()] == ["settings.json"]
    assert json.loads((taken / "settings.json").read_text())["lr"] == 0.3


def test_overwriting_does_not_follow_links(taken, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (taken / "link").symlink_to(tmp_path / "precious")
    RunFolder.claim(taken, SETTINGS, overwrite=True)
    assert (tmp_path / "precious" / "file").read_text() == "mine"


NOT_OURS = {
    "other files": ({"a.txt": "mine"}, "holds other files"),
    "another program's settings": ({"settings.json": '{"a": 1}'}, "not of a run of this package"),
    "a list": ({"settings.json": "[1]"}, "not of a run of this package"),
    "no JSON": ({"settings.json": "{"}, "is not JSON"),
}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("kind", NOT_OURS)
def test_what_no_run_of_ours_wrote_is_never_touched(tmp_path, kind, options):
    files, message = NOT_OURS[kind]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=message):
        RunFolder.claim(tmp_path, SETTINGS, **options)
    assert contents(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunFolderError, match="a file: give a folder"):
        RunFolder.claim(tmp_path / "out", SETTINGS)


@pytest.mark.parametrize("exists", [False, True])
def test_there_must_be_something_to_resume(tmp_path, exists):
    path = tmp_path / "out"
    if exists:
        path.mkdir()
    with pytest.raises(RunFolderError, match="nothing to resume"):
        RunFolder.claim(path, SETTINGS, resume=True)
    assert path.exists() == exists
