"""CSV files: what is read, what is refused and where, and that observed cells keep their text."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polargrad.errors import DataError
from polargrad.estimators.csv_files import MISSING, CsvFormat, number, numbers
from polargrad.estimators.tables import check_no_empty_lines, read_table, write_filled

NAN = math.nan


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""

    def write(content, name="data.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
        return path

    return write


def text(path):
    return path.read_bytes().decode()


# --- cells


@pytest.mark.parametrize("cell", ["", " ", "NA", "NaN", "nan", "?", " ? ", "NAN", "-nan"])
def test_spellings_of_a_missing_cell(cell):
    assert math.isnan(number(cell, MISSING))
    assert math.isnan(numbers([cell, "1"], MISSING, None)[0])


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("x", "'x' is not a number"),
        ("1_000", "'1_000' is not a number"),
        ("1,5", "'1,5' is not a number"),
        ("٣", "'٣' is not a number"),
        ("0x10", "'0x10' is not a number"),
        ("inf", "'inf' is infinite"),
        ("-Infinity", "'-Infinity' is infinite"),
        ("1e999", "'1e999' is infinite"),
    ],
)
@pytest.mark.parametrize("missing", [MISSING, MISSING | {"-999"}])
def test_what_is_no_finite_number_is_refused_with_its_place(cell, why, missing):
    def fault(place, message):
        raise ValueError(f"{place}: {message}")

    with pytest.raises(ValueError, match=f"^2: {why}$"):
        numbers(["1", " 2 ", cell, "4"], missing, fault)


@given(st.lists(st.floats(allow_infinity=False), max_size=20))
def test_numbers_are_read_exactly(values):
    read = numbers([repr(value) for value in values], MISSING, None)
    np.testing.assert_array_equal(read, values)


# --- tables


def test_a_table_without_a_header(file):
    table = read_table(file("1,2\n\n3,NA\n"))
    np.testing.assert_array_equal(table.values, [[1, 2], [3, NAN]])
    assert (table.rows, table.columns, table.header, table.missing) == (
        (1, 3),
        ("1", "2"),
        False,
        1,
    )


def test_a_table_with_a_header_and_labels(file):
    table = read_table(file(";kg;m\r\nann;1;\r\nbob;-2e-3;?\r\n"), CsvFormat(";"), index=True)
    np.testing.assert_array_equal(table.values, [[1, NAN], [-2e-3, NAN]])
    assert (table.rows, table.columns, table.header) == (("ann", "bob"), ("kg", "m"), True)


def test_numbers_are_a_header_only_if_the_format_says_so(file):
    years = file("2001,2002\n1,2\n")
    assert len(read_table(years).values) == 2
    assert read_table(years, CsvFormat(header="yes")).columns == ("2001", "2002")


def test_a_byte_order_mark_is_no_part_of_the_first_name(file):
    assert read_table(file("a,b\n1,2\n", encoding="utf-8-sig")).columns == ("a", "b")


def test_further_spellings_of_missing_cells(file):
    table = read_table(file("-999,2\n-,4\n"), CsvFormat(missing=MISSING | {"-999", "-"}))
    np.testing.assert_array_equal(table.values, [[NAN, 2], [NAN, 4]])


REFUSED = {
    "": "{} is empty",
    "\n\n": "{} is empty",
    "a,b\n": "{} holds a header and no rows",
    "1,2\n3\n": "{}, line 2: 1 cell, where line 1 has 2",
    "1,2\n\n3,4,5\n": "{}, line 3: 3 cells, where line 1 has 2",
    "1;2\n3,4\n": "{}, line 2: 2 cells, where line 1 has 1 (is the delimiter ';'?)",
    "a,b\n1,2\n3,x\n": "{}, line 3, column 2 ('b'): 'x' is not a number",
    "1,2\n3,inf\n": "{}, line 2, column 2: 'inf' is infinite",
    "1,2\nann,4\n": "{}, line 2, column 1: 'ann' is not a number; if the first column holds labels",
    "a,2\n1,2\n": "{}, line 1 mixes numbers and words ('a'): say whether it is a header",
    '1,"2\n3,4\n': "{}, line 1: unexpected end of data",
    b"1,2\n\xff,4\n": "{}, line 2, byte 1 of it: not utf-8 text (invalid start byte)",
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_table_that_is_refused(file, content):
    path = file(content)
    with pytest.raises(DataError) as refused:
        read_table(path)
    assert str(refused.value).startswith(REFUSED[content].format(path))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="not there: give a file"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(DataError, match="a folder: give a file"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"delimiter": ";;"}, "delimiter must be one character, got ';;'"),
        ({"delimiter": '"'}, "delimiter must be one character, got '\"'"),
        ({"header": "maybe"}, "header must be one of auto, yes, no, got 'maybe'"),
        ({"encoding": "utf-9"}, "encoding 'utf-9' is unknown"),
    ],
)
def test_a_format_that_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        CsvFormat(**option)


@pytest.mark.parametrize(
    ("content", "index", "message"),
    [
        ("1,2\n,\n3,4\n", False, "the row of line 2 has no value at all"),
        ("1,2\n,\nNA,?\n", False, "the rows of line 2, 3 have no value at all"),
        ("n,a,b\nx,1,\ny,2,\n", True, "the column 'b' has no value at all"),
        ("n,a,b\nx,,\ny,2,3\n", True, "the row 'x' has no value at all"),
        ("1" + ",?" * 7, False, "the columns '2', '3', '4', '5', '6' and 2 more have no value"),
    ],
)
def test_rows_and_columns_without_a_value_are_named(file, content, index, message):
    table = read_table(file(content), index=index)
    with pytest.raises(DataError) as refused:
        check_no_empty_lines(table)
    assert message in str(refused.value)


CELLS = st.one_of(
    st.sampled_from(["1.50", "+2", " 3e0", "0.1000000000000000055", "007", "-0", "1E5", ".5"]),
    st.sampled_from(["", "NA", " ?", "NaN", "nan"]),
)


@settings(deadline=None)
@given(
    rows=st.integers(2, 4).flatmap(
        lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    label=st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1),
    ending=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from(",;\t"),
)
def test_observed_cells_keep_their_text(tmp_path_factory, rows, label, ending, delimiter):
    """And names, delimiter and line ends; only the gaps change."""
    path = tmp_path_factory.mktemp("tables") / "data.csv"
    lines = [["", *"abcd"[: len(rows[0])]], *([label, *row] for row in rows)]
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=delimiter, lineterminator=ending).writerows(lines)
    table = read_table(path, CsvFormat(delimiter), index=True)
    write_filled(table, np.full(table.values.shape, 1 / 3), path, digits=4)
    assert text(path).startswith(delimiter.join(lines[0]) + ending)
    written = list(csv.reader(io.StringIO(text(path), newline=""), delimiter=delimiter))
    expected = [
        [label, *("0.3333" if cell.strip() in MISSING else cell for cell in row)] for row in rows
    ]
    assert written == [lines[0], *expected]


def test_a_file_that_changed_under_way_is_not_completed(file, tmp_path):
    path, out = file("1,2\n3,\n"), tmp_path / "out.csv"
    table = read_table(path)
    for changed in ("1,2\n", "1,2\n3,\n4,5\n", "1,2,3\n4,5,6\n"):
        path.write_text(changed)
        with pytest.raises(DataError, match="has changed since it was read"):
            write_filled(table, np.zeros((2, 2)), out)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"filled must have shape \(2, 2\), got \(2, 3\)"):
        write_filled(table, np.zeros((2, 3)), out)
