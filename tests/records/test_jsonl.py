"""Records are complete lines, whatever happened to the run that wrote them."""

import json

import pytest

from polargrad.errors import RunFolderError
from polargrad.records import RecordWriter, read_records, rewind_records


@pytest.fixture
def path(tmp_path):
    """A file of the records of steps 0 to 4."""
    with RecordWriter(tmp_path / "log.jsonl") as records:
        for step in range(5):
            records.write({"step": step, "loss": 1 / (step + 3)})
    return tmp_path / "log.jsonl"


def steps(path):
    return [record["step"] for record in read_records(path)]


def test_numbers_come_back_to_the_bit(path):
    assert [record["loss"] for record in read_records(path)] == [1 / (n + 3) for n in range(5)]


def test_a_record_can_be_read_while_the_writer_is_open(tmp_path):
    with RecordWriter(tmp_path / "a.jsonl") as records:
        records.write({"step": 1})
        records.sync()
        assert steps(tmp_path / "a.jsonl") == [1]


def test_an_unfinished_last_line_is_not_a_record(path):
    whole = path.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_text(whole[:-cut])
        assert steps(path) == [0, 1, 2, 3]


def test_writing_goes_on_after_an_unfinished_line(path):
    path.write_text(path.read_text()[:-5])
    with RecordWriter(path) as records:
        records.write({"step": 9})
    assert steps(path) == [0, 1, 2, 3, 9]


def test_writing_goes_on_in_a_file_of_one_unfinished_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"st')
    with RecordWriter(tmp_path / "a.jsonl") as records:
        records.write({"step": 0})
    assert steps(tmp_path / "a.jsonl") == [0]


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 2, is not JSON"), ("[1]", "line 2, is not a JSON object")]
)
def test_a_broken_line_in_the_middle_is_an_error(path, line, message):
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFolderError, match=message):
        steps(path)


def test_a_file_that_is_not_text_is_an_error(path):
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(RunFolderError, match="is not text"):
        steps(path)


@pytest.mark.parametrize("last", [-1, 0, 2, 4, 7])
def test_rewinding_drops_the_later_steps_alone(path, last):
    before = list(read_records(path))
    with path.open("a") as file:
        file.write('{"step": 5, "unfin')
    rewind_records(path, last_step=last)
    assert list(read_records(path)) == before[: last + 1]
    assert path.read_text() == "".join(json.dumps(record) + "\n" for record in before[: last + 1])


def test_rewinding_what_does_not_exist_makes_nothing(tmp_path):
    rewind_records(tmp_path / "none.jsonl", last_step=3)
    assert list(tmp_path.iterdir()) == []
