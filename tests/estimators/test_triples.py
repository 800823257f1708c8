"""Triples in CSV files: what is read, what is refused and where, and how they are completed."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polargrad.errors import DataError
from polargrad.estimators.completed_triples import (
    LARGEST_TABLE,
    check_dense,
    write_dense,
    write_list,
    write_pairs,
)
from polargrad.estimators.csv_files import BATCH, CsvFormat
from polargrad.estimators.tables import read_table
from polargrad.estimators.triples import is_triples_header, read_pairs, read_triples


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


RATINGS = "user,item,stars\nann,x,5.0\nbob,x,3\nbob,y,\ncid,y,1\nann,y,0\n"


def by_names(triples):
    """The values by the names of their places, NaN as None."""
    rows, columns = list(triples.row_names.numbered), list(triples.column_names.numbered)
    return {
        (rows[i], columns[j]): None if math.isnan(value) else value
        for i, j, value in zip(triples.rows, triples.columns, triples.values, strict=True)
    }


def test_triples_are_read(file):
    triples = read_triples(file(RATINGS))
    assert triples.header == ("user", "item", "stars")
    assert triples.shape == (3, 2)
    assert by_names(triples) == {
        ("ann", "x"): 5,
        ("bob", "x"): 3,
        ("bob", "y"): None,
        ("cid", "y"): 1,
        ("ann", "y"): 0,
    }
    assert triples.lines.tolist() == [2, 3, 4, 5, 6]
    matrix = triples.matrix()
    assert matrix.nnz == 4  # an observed zero is stored
    np.testing.assert_array_equal(matrix.toarray(), [[5, 0], [3, 0], [0, 1]])


@settings(deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(-3, 9), st.integers(0, 5)),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
    )
)
def test_the_matrix_holds_each_value_at_its_place(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("triples") / "data.csv"
    path.write_text("".join(f"{i}, {j},{value!r}\n" for (i, j), value in values.items()))
    triples = read_triples(path)
    assert by_names(triples) == {(str(i), str(j)): value for (i, j), value in values.items()}
    matrix = triples.matrix()
    assert matrix.has_canonical_format
    stored = matrix.tocoo()
    places = dict(zip(zip(*stored.coords, strict=True), stored.data, strict=True))
    rows, columns = triples.row_names.numbered, triples.column_names.numbered
    assert places == {(rows[str(i)], columns[str(j)]): v for (i, j), v in values.items()}


def test_more_triples_than_are_read_at_a_time(file):
    count = 2 * BATCH + 7
    path = file("row,column,value\n" + "".join(f"{k // 3},{k % 3},{k}\n" for k in range(count)))
    triples = read_triples(path)
    np.testing.assert_array_equal(triples.values, np.arange(count))
    np.testing.assert_array_equal(triples.rows, np.arange(count) // 3)
    np.testing.assert_array_equal(triples.lines, np.arange(count) + 2)


def test_a_given_shape_makes_names_integers(file):
    triples = read_triples(file("07,0,1\n7,1,2\n0,0,3\n"), shape=(8, 2))
    assert by_names(triples) == {("7", "0"): 1, ("7", "1"): 2, ("0", "0"): 3}


TRIPLES_REFUSED = {
    "": "{} is empty",
    "row,column,value\n": "{} holds a header and no triples",
    "a,x,1\nb,x\n": "{}, line 2: 2 cells, where 3 are needed: row, column, value",
    "a;x;1\n": "{}, line 1: 1 cell, where 3 are needed: row, column, value (is the delimiter ';'?)",
    "a,x,1\nb,x,one\n": "{}, line 2, column 3: 'one' is not a number",
    "a,x,1\nb,x,inf\n": "{}, line 2, column 3: 'inf' is infinite",
    "a,x,inf\n": "{}, line 1, column 3: 'inf' is infinite",
    "a,x,1\n,x,2\n": "{}, line 2: the name of the row is missing",
    "a,x,1\nb,x,2\n\na,x,3\n": "{}: row 'a', column 'x' stands twice, on lines 1 and 4",
    "a,x,1\nb,x,2\nb,x,2\na,x,3\n": (
        "{}: row 'b', column 'x' stands twice, on lines 2 and 3 (2 such repetitions in all)"
    ),
    "a,x,1\na,x,\n": "{}: row 'a', column 'x' stands twice, on lines 1 and 2",
    "a,x,1\nb,x,\n": "{}, line 2: row 'b' has no value at all",
    "a,x,1\na,y,\na,z,?\n": "{}, line 2: column 'y' has no value at all (as 1 more)",
    b"a,x,1\n\xe9,x,2\n": "{}, line 2, byte 1 of it: not utf-8 text",
}


@pytest.mark.parametrize("content", TRIPLES_REFUSED)
def test_triples_that_are_refused(file, content):
    path = file(content)
    with pytest.raises(DataError) as refused:
        read_triples(path)
    assert str(refused.value).startswith(TRIPLES_REFUSED[content].format(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,0,1\n3,0,2\n", "line 2: row 3 is outside 0 … 2"),
        ("0,0,1\n-1,0,2\n", "line 2: row -1 is outside 0 … 2"),
        ("0,0,1\n1,2,2\n", "line 2: column 2 is outside 0 … 1"),
        ("0,0,1\n1.0,0,2\n", "line 2: row '1.0' is not an integer, as a given shape demands"),
    ],
)
def test_indices_outside_a_given_shape_are_refused(file, content, message):
    with pytest.raises(DataError, match=message):
        read_triples(file(content), shape=(3, 2))


def test_triples_are_recognised_by_their_header_alone(file):
    assert is_triples_header(file("\nRow, Column ,VALUE\n1,2,3\n"), CsvFormat())
    assert not is_triples_header(file(RATINGS), CsvFormat())
    assert not is_triples_header(file("row,column,value,time\n"), CsvFormat())
    assert not is_triples_header(file(""), CsvFormat())


# --- completed triples


def place_value(triples):
    """A prediction that tells the place it is for: 1000 + 10 (row) + column, in file order."""
    return lambda rows, columns: 1000.0 + 10.0 * rows + columns


def test_the_list_is_completed_and_otherwise_the_same(file, tmp_path):
    triples = read_triples(file(RATINGS))
    out = tmp_path / "out.csv"
    assert write_list(triples, place_value(triples), out) == 1
    assert text(out) == RATINGS.replace("bob,y,\n", "bob,y,1011\n")


def test_pairs_are_written_in_their_order_and_observed_ones_keep_their_text(file, tmp_path):
    triples = read_triples(file(RATINGS))
    pairs = read_pairs(file("user,item\ncid,x\nann,x\ncid,x\nbob,y\n", "pairs.csv"), triples)
    out = tmp_path / "out.csv"
    assert write_pairs(triples, pairs, place_value(triples), out) == 3
    assert text(out) == "user,item,stars\ncid,x,1020\nann,x,5.0\ncid,x,1020\nbob,y,1011\n"


@pytest.mark.parametrize("header", ["", "row,column\n", "USER,item\n"])
def test_the_header_of_pairs_is_optional(file, header):
    triples = read_triples(file(RATINGS))
    pairs = read_pairs(file(header + "cid,x\n", "pairs.csv"), triples)
    assert (pairs.rows.tolist(), pairs.columns.tolist()) == ([2], [0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("row,column\n", "holds a header and no pairs"),
        ("ann,x,1\n", "line 1: 3 cells, where 2 are needed: row, column"),
        ("ann,x\neve,x\n", "line 2: row 'eve' has no value in the data"),
        ("ann,x\nann,z\n", "line 2: column 'z' has no value in the data"),
        ("u,i\nann,x\n", "line 1: row 'u' has no value in the data"),
    ],
)
def test_pairs_that_are_refused(file, content, message):
    triples = read_triples(file(RATINGS))
    with pytest.raises(DataError, match=message):
        read_pairs(file(content, "pairs.csv"), triples)


def test_a_small_table_of_triples(file, tmp_path):
    """Integers by size: 2 before 10; what was observed keeps its text."""
    triples = read_triples(file("10,b,1.50\n2,b,3\n2,a,4\n"))
    out = tmp_path / "out.csv"
    assert write_dense(triples, place_value(triples), out) == 1
    assert text(out) == ",b,a\n2,3,4\n10,1.50,1001\n"
    again = read_table(out, index=True)
    assert (again.rows, again.columns, again.missing) == (("2", "10"), ("b", "a"), 0)


def test_a_large_table_or_one_with_empty_rows_is_refused(file):
    side = math.isqrt(LARGEST_TABLE) + 1
    triples = read_triples(file("".join(f"{k},{k},1\n" for k in range(side))))
    with pytest.raises(ValueError, match=f"{side} x {side} = {side**2} cells, more than 1000000"):
        check_dense(triples)
    triples = read_triples(file("0,0,1\n2,0,1\n"), shape=(5, 1))
    with pytest.raises(DataError, match=r"row 1 of the given shape .* \(as 2 more\)"):
        check_dense(triples)


def test_triples_that_changed_under_way_are_not_completed(file, tmp_path):
    path, out = file(RATINGS), tmp_path / "out.csv"
    triples = read_triples(path)
    for changed in (RATINGS + "eve,x,1\n", RATINGS[:-8], RATINGS.replace("ann,y,0", "ann,y")):
        path.write_text(changed)
        with pytest.raises(DataError, match="has changed since it was read"):
            write_list(triples, place_value(triples), out)
    assert not out.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]


def test_reading_reports_how_far_it_is(file):
    """Bytes, increasing, and never more than there are."""
    path = file("".join(f"{k},0,1\n" for k in range(5 * BATCH)))
    told = []
    read_triples(path, report=told.append)
    assert len(told) >= 4
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] <= path.stat().st_size


def test_duplicates_are_found_among_all(file):
    """Against counting, on random triples with some repetitions."""
    generator = np.random.default_rng(0)
    places = generator.integers(0, 40, size=(300, 2))
    path = file("".join(f"{i},{j},1\n" for i, j in places))
    lines = defaultdict(list)
    for line, place in enumerate(map(tuple, places.tolist()), start=1):
        lines[place].append(line)
    first = min((found for found in lines.values() if len(found) > 1), key=lambda found: found[1])
    with pytest.raises(DataError, match=f"on lines {first[0]} and {first[1]} "):
        read_triples(path)
