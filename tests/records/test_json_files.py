"""Objects in files of their own: what is read and refused, and that a failure loses nothing."""

import json
import math

import pytest

from polargrad.errors import RunFolderError
from polargrad.records import read_json, write_json


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    data = {"name": "f − f*", "lr": 4e-8, "nothing": None, "rows": [{"step": 1}], "ended": True}
    write_json(path, data)
    assert read_json(path) == data
    text = path.read_text(encoding="utf-8")
    assert "f − f*" in text  # as it is, for people
    assert text.endswith("}\n")


def test_numbers_are_kept_to_the_bit(tmp_path):
    path = tmp_path / "a.json"
    for value in (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf):
        write_json(path, {"value": value})
        assert read_json(path)["value"] == value
    write_json(path, {"value": math.nan})
    assert math.isnan(read_json(path)["value"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b"3", "is not a JSON object"),
    ],
)
def test_what_is_no_object_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=rf"a\.json' {message}"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"a\.json' is missing"):
        read_json(tmp_path / "a.json")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
