"""``polargrad impute`` as it is typed: what it fills in, what it says, what it refuses."""

import contextlib
import csv
import dataclasses
import fcntl
import io
import math
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from polargrad.cli import main
from polargrad.cli.impute import Impute
from polargrad.records import write_atomically


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def low_rank(rows, columns, rank=2, seed=0):
    """A product of two factors, plus 5."""
    generator = np.random.default_rng(seed)
    return 5 + generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, columns))


def with_gaps(shape, part=0.3, seed=1):
    """A mask of gaps that leaves something in each row and column."""
    gaps = np.random.default_rng(seed).random(shape) < part
    assert not gaps.all(axis=0).any()
    assert not gaps.all(axis=1).any()
    return gaps


def write_table(path, values, gaps, spellings=("",), texts="{:.12g}".format):
    """A table with a header and labels; returns its cells."""
    cells = [["", *(f"c{j}" for j in range(values.shape[1]))]]
    count = 0
    for i, row in enumerate(values.tolist()):
        line = [f"r{i}"]
        for j, value in enumerate(row):
            line.append(spellings[count % len(spellings)] if gaps[i, j] else texts(value))
            count += gaps[i, j]
        cells.append(line)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(cells)
    return cells


def cells_of(path):
    return list(csv.reader(io.StringIO(path.read_text())))


def impute(*words):
    return main(["impute", *map(str, words)])


# --- tables


def test_a_table_is_filled_and_what_was_there_is_untouched(folder, capsys):
    """Noise-free rank 2: gaps are found to 5 % of their spread; other cells keep their text."""
    values, gaps = low_rank(60, 40), with_gaps((60, 40))
    spellings = ("", "NA", "NaN", "nan", "?", " ")
    before = write_table(folder / "data.csv", values, gaps, spellings, "{:+.9e}".format)
    assert impute("data.csv", "--index", "--rank", 2, "--out", "out.csv") == 0
    after = cells_of(folder / "out.csv")
    assert after[0] == before[0]
    assert [row[0] for row in after] == [row[0] for row in before]
    for i, j in np.argwhere(~gaps):
        assert after[i + 1][j + 1] == before[i + 1][j + 1]
    filled = np.array([[float(cell) for cell in row[1:]] for row in after[1:]])
    error = np.sqrt(np.mean((filled - values)[gaps] ** 2))
    assert error < 0.05 * values.std()
    said, complaints = capsys.readouterr()
    assert f"out.csv: {gaps.sum()} cells filled in; rank 2, regularization " in said
    assert "held-out error 0.0" in said
    assert complaints == ""  # quiet where nobody watches


def test_the_same_seed_fills_in_the_same(folder):
    write_table(folder / "data.csv", low_rank(20, 15), with_gaps((20, 15)))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert impute("data.csv", "--index", "--rank", 2, "--seed", seed, "--out", name) == 0
    a, b, c = ((folder / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_options_reach_the_model(folder, capsys):
    write_table(folder / "data.csv", low_rank(20, 15), with_gaps((20, 15)))
    words = [
        "data.csv",
        "--index",
        "--rank",
        "1",
        "--regularization",
        "0.5",
        "--digits",
        "3",
        "--out",
        "out.csv",
    ]
    assert impute(*words) == 0
    assert "rank 1, regularization 0.5\n" in capsys.readouterr().out
    gaps = with_gaps((20, 15))
    after = cells_of(folder / "out.csv")
    filled = [after[i + 1][j + 1] for i, j in np.argwhere(gaps)]
    assert all(cell == f"{float(cell):.3g}" for cell in filled)


def test_a_table_without_gaps_is_copied(folder, capsys):
    (folder / "data.csv").write_text("1.0,2\r\n3,4\r\n")
    assert impute("data.csv", "--out", "out.csv") == 0
    assert (folder / "out.csv").read_bytes() == b"1.0,2\r\n3,4\r\n"
    assert capsys.readouterr().out == "nothing is missing in data.csv: out.csv is a copy\n"


def test_delimiter_encoding_header_and_further_spellings(folder):
    values = low_rank(12, 8)
    rows = "\n".join("\t".join(f"{value:.6f}" for value in row) for row in values)
    text = (
        "\t".join(map(str, range(2001, 2009))) + "\n" + rows.replace(f"{values[3, 4]:.6f}", "fehlt")
    )
    (folder / "data.csv").write_bytes(text.encode("utf-16"))
    words = "data.csv --delimiter tab --encoding utf-16 --header yes --missing fehlt - --out o.csv"
    assert impute(*words.split()) == 0
    after = (folder / "o.csv").read_bytes().decode("utf-16").splitlines()
    before = text.splitlines()
    assert [k for k in range(13) if after[k] != before[k]] == [4]
    assert after[4].split("\t")[:4] == before[4].split("\t")[:4]
    assert math.isfinite(float(after[4].split("\t")[4]))


# --- triples


def write_triples(path, values, gaps, header="row,column,value"):
    """Triples in random order, those of the gaps without a value; returns their lines."""
    places = np.random.default_rng(2).permutation(np.argwhere(np.ones_like(gaps)))
    lines = [f"r{i},{j},{'' if gaps[i, j] else repr(float(values[i, j]))}" for i, j in places]
    path.write_text("\n".join([header, *lines]) + "\n")
    return lines


def test_triples_without_a_value_are_completed(folder, capsys):
    values, gaps = low_rank(60, 40), with_gaps((60, 40))
    before = write_triples(folder / "data.csv", values, gaps)
    assert impute("data.csv", "--rank", 2, "--out", "out.csv") == 0
    header, *after = (folder / "out.csv").read_text().splitlines()
    assert header == "row,column,value"
    squares = []
    for old, new in zip(before, after, strict=True):
        if old.endswith(","):
            assert new.startswith(old)
            row, column, value = new.split(",")
            squares.append((float(value) - values[int(row[1:]), int(column)]) ** 2)
        else:
            assert new == old
    assert len(squares) == gaps.sum()
    assert math.sqrt(np.mean(squares)) < 0.05 * values.std()
    assert f"out.csv: {gaps.sum()} values filled in; rank 2" in capsys.readouterr().out


def test_a_table_and_its_triples_are_filled_alike(folder):
    """They are the same problem where names appear in the order of the table."""
    values, gaps = low_rank(20, 15), with_gaps((20, 15))
    gaps[0] = False
    write_table(folder / "table.csv", values, gaps, texts=repr)
    lines = [f"r{i},c{j},{float(values[i, j])!r}" for i, j in np.argwhere(~gaps)]
    (folder / "triples.csv").write_text("\n".join(["who,what,how much", *lines]))
    common = ["--rank", 2, "--digits", 12]
    assert impute("table.csv", "--index", "--out", "a.csv", *common) == 0
    assert impute("triples.csv", "--triples", "--dense", "--out", "b.csv", *common) == 0
    first, second = cells_of(folder / "a.csv"), cells_of(folder / "b.csv")
    assert first[0] == second[0]
    assert [row[0] for row in first] == [row[0] for row in second]
    np.testing.assert_allclose(
        *(np.array([row[1:] for row in cells[1:]], dtype=float) for cells in (first, second)),
        rtol=1e-9,
    )


def test_pairs_are_predicted(folder, capsys):
    values, gaps = low_rank(60, 40), with_gaps((60, 40))
    seen = np.argwhere(~gaps)
    lines = ["user,item,stars", *(f"{i},{j},{values[i, j]:.6f}" for i, j in seen)]
    (folder / "data.csv").write_text("\n".join(lines))
    wanted = [*np.argwhere(gaps)[::-1].tolist(), seen[5].tolist()]
    (folder / "pairs.csv").write_text("".join(f"{i},{j}\n" for i, j in wanted))
    words = "data.csv --triples --shape 60x40 --rank 2 --predict pairs.csv --out out.csv"
    assert impute(*words.split()) == 0
    header, *rows = cells_of(folder / "out.csv")
    assert header == ["user", "item", "stars"]
    assert [[int(i), int(j)] for i, j, _ in rows] == wanted
    assert rows[-1][2] == f"{values[tuple(seen[5])]:.6f}"
    errors = [float(value) - values[int(i), int(j)] for i, j, value in rows]
    assert math.sqrt(np.mean(np.square(errors))) < 0.05 * values.std()
    assert f"out.csv: {gaps.sum()} values filled in" in capsys.readouterr().out


# --- what is refused

TABLE = "1,2,3\n2,4,\n3,,9\n4,8,12\n"
TRIPLES = "row,column,value\na,x,1\na,y,2\nb,x,3\nb,y,\n"
WRONG = [
    ("no.csv", None, "", "no.csv is not there: give a file"),
    ("data.csv", "", "", "data.csv is empty"),
    ("data.csv", "1,2\n,\n3,4\n", "", "data.csv: the row of line 2 has no value at all"),
    ("data.csv", "a,b\n1,\n2,\n", "", "data.csv: the column 'b' has no value at all"),
    ("data.csv", "1,2\n3,x\n", "", "data.csv, line 2, column 2: 'x' is not a number"),
    ("data.csv", "1,2\n3\n", "", "data.csv, line 2: 1 cell, where line 1 has 2"),
    ("data.csv", "1,2\n-inf,\n", "", "data.csv, line 2, column 1: '-inf' is infinite"),
    ("data.csv", "é,b\n1,\n", "--encoding ascii", "data.csv, line 1, byte 1 of it: not ascii text"),
    ("data.csv", TABLE, "--rank 4", "rank must be at most 3 for a table of 4 × 3, got 4"),
    ("data.csv", TABLE, "--rank 0", "rank must be at least 1 or auto, got 0"),
    ("data.csv", TABLE, "--regularization -1", "regularization must be at least 0"),
    ("data.csv", TABLE, "--digits 0", "digits must be at least 1, got 0"),
    ("data.csv", TABLE, "--delimiter ;;", "delimiter must be one character, got ';;'"),
    ("data.csv", TABLE, "--dense", "dense is for triples: data.csv has no header row,column,value"),
    ("data.csv", TABLE, "--shape 4x3", "shape is for triples"),
    ("data.csv", TABLE, "--predict data.csv --dense", "predict and dense exclude each other"),
    ("data.csv", TRIPLES, "--index", "index is for tables"),
    ("data.csv", TRIPLES, "--shape 4", "shape must be ROWSxCOLUMNS, such as 100x20, got '4'"),
    ("data.csv", TRIPLES, "--shape 2x2", "data.csv, line 2: row 'a' is not an integer"),
    ("data.csv", TRIPLES, "--rank 3", "rank must be at most 2 for a table of 2 × 2, got 3"),
    ("data.csv", TRIPLES + "a,x,4\n", "", "data.csv: row 'a', column 'x' stands twice, on lines 2"),
    ("data.csv", TRIPLES + "c,x,\n", "", "data.csv, line 6: row 'c' has no value at all"),
    ("data.csv", TRIPLES + "c,x,z\n", "", "data.csv, line 6, column 3: 'z' is not a number"),
    ("data.csv", TRIPLES.replace("y,\n", "y,9\n"), "", "every triple of data.csv has a value"),
    ("data.csv", TRIPLES, "--predict data.csv", "data.csv, line 1: 3 cells, where 2 are needed"),
    ("data.csv", TRIPLES, "--predict no.csv", "no.csv is not there: give a file"),
    (
        "data.csv",
        "0,0,1\n2,0,1\n1,1,2\n",
        "--triples --shape 2x2",
        "data.csv, line 2: row 2 is outside 0 … 1",
    ),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), WRONG)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    folder, capsys, name, content, options, message
):
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    before = sorted(path.name for path in folder.iterdir())
    assert impute(name, "--out", "out.csv", *options.split()) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("polargrad impute: error: " + message)
    assert said.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_output_file_is_replaced_only_on_request(folder, capsys):
    """And may then be the input."""
    (folder / "data.csv").write_text(TABLE)
    assert impute("data.csv", "--out", "data.csv") == 2
    assert "out is 'data.csv', which exists" in capsys.readouterr().err
    assert (folder / "data.csv").read_text() == TABLE
    assert impute("data.csv", "--out", "data.csv", "--overwrite", "--rank", 1) == 0
    after = cells_of(folder / "data.csv")
    assert (after[0], after[3]) == (["1", "2", "3"], ["4", "8", "12"])
    assert all(cell for row in after for cell in row)


def test_an_output_that_cannot_be_is_known_before_anything_is_read(folder, capsys):
    (folder / "sub").mkdir()
    for out, message in (("sub", "a folder: give a file"), ("no/a.csv", "whose folder does not")):
        assert impute("no.csv", "--out", out) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [TABLE, TRIPLES])
@pytest.mark.parametrize(
    ("trouble", "code", "message"),
    [
        (OSError(28, "No space left on device"), 2, "[Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_write_that_is_cut_off_leaves_the_old_file(
    folder, capsys, monkeypatch, content, trouble, code, message
):
    """By a full disk or by Ctrl-C, when the new file is written but not yet in its place."""
    (folder / "data.csv").write_text(content)
    (folder / "out.csv").write_text("old")

    def cut_off(path, write):
        def write_and_fail(file):
            write(file)
            assert len(list(folder.iterdir())) == 3
            raise trouble

        write_atomically(path, write_and_fail)

    for module in ("tables", "completed_triples"):
        monkeypatch.setattr(f"polargrad.estimators.{module}.write_atomically", cut_off)
    assert impute("data.csv", "--rank", 1, "--out", "out.csv", "--overwrite") == code
    assert capsys.readouterr() == ("", f"polargrad impute: error: {message}\n")
    assert (folder / "out.csv").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["data.csv", "out.csv"]


# --- as a program


def test_on_a_terminal_it_shows_progress(folder):
    write_table(folder / "data.csv", low_rank(20, 15), with_gaps((20, 15)))
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # else it has no width
    words = ["impute", "data.csv", "--index", "--rank", "2", "--out", "out.csv"]
    with subprocess.Popen(
        [sys.executable, "-m", "polargrad", *words], stdout=subprocess.PIPE, stderr=end, text=True
    ) as process:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal without a writer by an error
            while part := os.read(terminal, 4096):
                shown += part
        printed = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0, shown
    assert b"reading" in shown
    assert b"fitting" in shown
    assert "MatrixCompletion" not in printed  # its lines are the bar's
    assert printed.startswith("out.csv: ")


def test_a_missing_extra_is_named(folder):
    """Where only the packages of another extra are installed."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from polargrad.cli import main; sys.exit(main(['impute', 'a.csv', '--out', 'b.csv']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("polargrad impute: error: this needs the package 'sklearn'")
    assert "polargrad[estimators]" in done.stderr


def test_the_command_explains_every_option(capsys):
    assert main(["impute", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Impute):
        name = "DATA.csv" if field.name == "data" else "--" + field.name
        assert name in shown


@pytest.mark.slow
def test_the_benchmark_of_memory_runs_in_small():
    """Ratings-like triples: both lines of a rank, and an error near that of the noise."""
    sizes = ["--rows", "300", "--columns", "80", "--entries", "12000", "--ranks", "5"]
    script = Path(__file__).parents[2] / "benchmarks" / "impute_memory.py"
    done = subprocess.run(
        [sys.executable, script, *sizes], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:2] for line in lines[1:]] == [
        ["| estimator", "5"],
        ["| command", "5"],
    ]
    error = float(lines[-1].split("|")[-2])
    assert 0.95 < error < 1.4  # the noise is the floor; the mean alone has √(1 + (0.7/0.5)²) = 1.7
