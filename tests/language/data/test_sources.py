"""Every format gives its documents, and says where one is not what it should be."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from polargrad.errors import DataError, MissingExtraError
from polargrad.language.data import HuggingFace, source_of
from polargrad.language.data import cache as cache_module

TEXTS = ["one\r\n", "", "zwei ist zwei", "日本語 🙂", "x" * 200_000]


def texts(source):
    """The documents' texts by their names."""
    found = [(document.name, "".join(document.pieces)) for document in source.documents()]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture(params=["text", "jsonl", "parquet", "datasets"])
def written(request, tmp_path):
    """``written(texts)`` writes these texts in a format and returns the source of them."""
    folder = tmp_path / "data"
    folder.mkdir()

    def make(texts):
        if request.param == "text":
            for index, text in enumerate(texts):
                (folder / f"{index:03d}.txt").write_bytes(text.encode())
            return source_of(folder)
        if request.param == "jsonl":
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n\n" for text in texts)
            (folder / "a.jsonl").write_text("".join(lines), encoding="utf-8")
            return source_of(folder / "a.jsonl")
        path = folder / "train-00000-of-00001.parquet"
        table = pyarrow.table({"id": [*range(len(texts))], "text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        return source_of(path if request.param == "parquet" else f"hf:{folder}")

    return make


def test_every_format_gives_the_same_texts(written, monkeypatch):
    monkeypatch.setattr(cache_module, "BLOCK", 7)  # cuts characters of several bytes
    assert [*texts(written(TEXTS)).values()] == TEXTS


def test_the_digest_is_that_of_the_contents(written):
    first = written(TEXTS).digest()
    assert written(TEXTS).digest() == first
    assert written([*TEXTS[:-1], "y" * 200_000]).digest() != first


def test_the_field_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one", "text": "two"}\n')
    source = source_of(tmp_path, field="body")
    assert [*texts(source).values()] == ["one"]
    assert source.digest() != source_of(tmp_path).digest()


LINES = {
    "line 2, is not JSON": '{"text": "a"}\n{"text": \n',
    "line 1, has no field 'text', its fields are body, id: give field": '{"body": "", "id": 1}',
    "line 3, has no field 'text', its fields are none at all": '{"text": "a"}\n\n{}\n',
    "line 1,: the field 'text' is NoneType, not text": '{"text": null}',
    "line 1,: the field 'text' is int, not text": '{"text": 3}',
    "line 1, is list, not an object": "[1]",
    "line 1,: the field 'text' is not Unicode text: surrogates": '{"text": "\\ud800"}',
    "line 1, is not JSON: 'utf-8' codec": b'{"text": "\xff"}',
}


@pytest.mark.parametrize("message", LINES)
def test_a_line_that_is_no_record(tmp_path, message):
    content = LINES[message]
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"a\.jsonl', {message}"):
        texts(source_of(path))


def test_parquet_that_has_no_texts(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["a"]}), path)
    with pytest.raises(DataError, match="no column 'text', its columns are id, body: give field"):
        texts(source_of(path))
    with pytest.raises(DataError, match="row 1,: the field 'id' is int, not text"):
        texts(source_of(path, field="id"))


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 10_000]}), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"a\.parquet' is not a Parquet file, or damaged"):
        texts(source_of(path))


def test_a_data_set_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot open the data set '.*missing', split 'train'"):
        texts(HuggingFace(str(tmp_path / "missing")))
    path = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), path)
    with pytest.raises(DataError, match="row 1, has no field 'text', its fields are body"):
        texts(HuggingFace(str(tmp_path)))
    with pytest.raises(DataError, match=r"cannot open .*, split 'dev'"):
        texts(HuggingFace(str(tmp_path), split="dev"))
    assert [*texts(HuggingFace(str(tmp_path), field="body")).values()] == ["a"]


@pytest.mark.parametrize("package", ["datasets", "pyarrow"])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, package):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    source = source_of(f"hf:{tmp_path}" if package == "datasets" else tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"needs the package '{package}'.*language"):
        texts(source)


def test_what_a_data_set_is_known_by():
    """Nothing is asked of the hub for it."""
    given = HuggingFace("owner/name")
    others = [
        HuggingFace("owner/other"),
        HuggingFace("owner/name", config="a"),
        HuggingFace("owner/name", split="test"),
        HuggingFace("owner/name", field="body"),
        HuggingFace("owner/name", revision="a"),
    ]
    assert len({source.digest() for source in (given, *others)}) == 6
    assert source_of("hf:owner/name:a") == others[1]


@pytest.mark.parametrize(
    ("content", "place"), [(b"abc\xffd", 3), (b"abc\xe2\x82", 3), ("é".encode() * 9 + b"\xff", 18)]
)
@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_a_text_that_is_not_utf8(tmp_path, monkeypatch, content, place, block):
    monkeypatch.setattr(cache_module, "BLOCK", block)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.txt' is not UTF-8 text: .* at byte {place}$"):
        source_of(tmp_path / "a.txt")


def test_a_folder_without_its_files_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "c.bmp").write_bytes(b"BM\0")
    (tmp_path / ".hidden").write_text("two")
    source = source_of(tmp_path)
    assert texts(source) == {"a.txt": "one"}
    assert source.skipped_files == 2
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"without a text file \(2 that are not UTF-8"):
        source_of(tmp_path)
    with pytest.raises(DataError, match="holds the byte 0"):
        source_of(tmp_path / "c.bmp")


def test_data_that_does_not_exist_or_is_of_two_kinds(tmp_path):
    with pytest.raises(DataError, match=r"no\.txt', which does not exist"):
        source_of(tmp_path / "no.txt")
    with pytest.raises(DataError, match="'hf:', which names no data set"):
        source_of("hf:")
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match="a folder with JSONL and Parquet"):
        source_of(tmp_path)


def test_the_standard_library_is_a_source():
    source = source_of(None)
    assert source.divisible
    assert 5e6 < source.size < 2e7
    assert "runpy.py" in source.paths
