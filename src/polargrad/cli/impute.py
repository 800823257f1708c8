"""``polargrad impute``: fill the gaps of a table, or of a list of triples."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from polargrad.estimators import MatrixCompletion
from polargrad.estimators.completed_triples import (
    check_dense,
    write_dense,
    write_list,
    write_pairs,
)
from polargrad.estimators.csv_files import HEADERS, MISSING, CsvFormat, Report
from polargrad.estimators.tables import check_no_empty_lines, read_table, write_filled
from polargrad.estimators.triples import (
    HEADER,
    is_triples_header,
    read_pairs,
    read_triples,
)
from polargrad.records import require

OUT = tyro.conf.arg(metavar="PATH")
DATA = tyro.conf.arg(metavar="DATA.csv")
PAIRS = tyro.conf.arg(metavar="PAIRS.csv", help_behavior_hint="")
RANK = tyro.conf.arg(metavar="INT|auto")
REGULARIZATION = tyro.conf.arg(metavar="FLOAT|auto")
SHAPE = tyro.conf.arg(metavar="ROWSxCOLUMNS", help_behavior_hint="")
HEADED = tyro.conf.arg(metavar="{" + ",".join(HEADERS) + "}")
SPELLINGS = tyro.conf.arg(
    metavar="TEXT [TEXT ...]",
    help_behavior_hint=f"(besides an empty cell, {', '.join(sorted(MISSING - {''}))})",
)
FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Impute:
    """Fill the gaps of a table of numbers with a matrix of low rank.

    A table: each line is a row; gaps are filled, everything else is copied as it is written.

    Triples (row, column, value), recognised by such a header or said with --triples: rows and
    columns have any names, and the matrix is never formed. Triples without a value are completed;
    or, with --predict, a list of pairs; or, with --dense, a small table is written.
    """

    data: Annotated[tyro.conf.Positional[Path], DATA]
    """A CSV file."""
    out: Annotated[Path, OUT]
    """The completed file; it appears when it is complete."""
    rank: Annotated[int | Literal["auto"], RANK] = "auto"
    """Rank of the model; auto chooses it by held-out entries."""
    regularization: Annotated[float | Literal["auto"], REGULARIZATION] = "auto"
    """Penalty on the model; auto chooses it by held-out entries."""
    seed: int = 0
    """Seed of the start and of the entries that are held out."""
    index: Annotated[bool, FLAG] = False
    """The first column of the table holds labels."""
    triples: Annotated[bool, FLAG] = False
    """The file holds triples, whatever its header is."""
    predict: Annotated[Path | None, PAIRS] = None
    """Write the values of these (row, column) pairs instead of the completed triples."""
    dense: Annotated[bool, FLAG] = False
    """Write the table of all rows and columns of the triples, if it has at most 10^6 cells."""
    shape: Annotated[str | None, SHAPE] = None
    """Rows and columns of the triples are integers that count from 0, within this shape."""
    header: Annotated[str, HEADED] = "auto"
    """Whether the first line is a header; auto: if it holds words where numbers would stand."""
    delimiter: str = ","
    """What separates cells: one character, or tab."""
    encoding: str = "utf-8"
    """Encoding of the files."""
    missing: Annotated[tuple[str, ...], SPELLINGS] = ()
    """Further spellings of a missing cell."""
    digits: int = 6
    """Significant digits of what is filled in."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace the output file if there is one."""

    def run(self) -> int:
        """Fill the gaps, say how well it is done elsewhere, and return the exit code."""
        form = CsvFormat(
            delimiter="\t" if self.delimiter == "tab" else self.delimiter,
            encoding=self.encoding,
            header=self.header,
            missing=MISSING | frozenset(self.missing),
        )
        self._check()
        recognised = form.header != "no" and is_triples_header(self.data, form)
        if self.triples or recognised:
            self._impute_triples(form)
        else:
            self._impute_table(form)
        return 0

    def _check(self) -> None:
        """Refuse options that are wrong, or do not go together, before anything is read."""
        if isinstance(self.rank, int) and self.rank < 1:
            raise ValueError(f"rank must be at least 1 or auto, got {self.rank}")
        if self.digits < 1:
            raise ValueError(f"digits must be at least 1, got {self.digits}")
        if self.predict is not None and self.dense:
            raise ValueError("predict and dense exclude each other: give one of them")
        if not self.out.parent.is_dir():
            raise ValueError(f"out is {str(self.out)!r}, whose folder does not exist")
        if self.out.is_dir():
            raise ValueError(f"out is {str(self.out)!r}, a folder: give a file")
        if self.out.exists() and not self.overwrite:
            raise ValueError(
                f"out is {str(self.out)!r}, which exists: overwrite it or give another"
            )
        if not os.access(self.out.parent, os.W_OK):
            raise ValueError(f"out is {str(self.out)!r}, in a folder that cannot be written to")

    def _impute_table(self, form: CsvFormat) -> None:
        """Copy a table with its gaps filled."""
        for name in ("predict", "dense", "shape"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is for triples: {self.data} has no header {','.join(HEADER)}, "
                    "so say that it holds triples (triples) if it does"
                )
        with _reading(self.data) as report:
            table = read_table(self.data, form, index=self.index, report=report)
        check_no_empty_lines(table)
        if not table.missing:
            write_filled(table, table.values, self.out)
            print(f"nothing is missing in {self.data}: {self.out} is a copy")
            return
        model = self._fitted(table.values)
        write_filled(table, model.transform(table.values), self.out, digits=self.digits)
        self._tell(model, table.values, table.missing, "cells")

    def _impute_triples(self, form: CsvFormat) -> None:
        """Write what is asked for of a list of triples."""
        if self.index:
            raise ValueError("index is for tables: triples have no column of labels")
        with _reading(self.data) as report:
            triples = read_triples(self.data, form, shape=_shape(self.shape), report=report)
        pairs = None if self.predict is None else read_pairs(self.predict, triples)
        if self.dense:
            check_dense(triples)
        elif pairs is None and not triples.asked.any():
            raise ValueError(
                f"every triple of {self.data} has a value: say which pairs to fill in (predict), "
                "leave values empty, or ask for the whole table (dense)"
            )
        model = self._fitted(triples.matrix())
        if pairs is not None:
            filled = write_pairs(triples, pairs, model.predict, self.out, digits=self.digits)
        elif self.dense:
            filled = write_dense(triples, model.predict, self.out, digits=self.digits)
        else:
            filled = write_list(triples, model.predict, self.out, digits=self.digits)
        self._tell(model, triples.values, filled, "values")

    def _fitted(self, data: Any) -> MatrixCompletion:
        """The model of a table with NaN, or of a sparse matrix; warnings are lines on stderr."""
        model = MatrixCompletion(
            self.rank,
            regularization=self.regularization,
            random_state=self.seed,
            verbose=int(sys.stderr.isatty()),
        )
        with warnings.catch_warnings(record=True) as raised, _fitting():
            warnings.simplefilter("always")
            model.fit(data)
        for warning in raised:
            print(f"polargrad impute: warning: {warning.message}", file=sys.stderr)
        return model

    def _tell(self, model: MatrixCompletion, values: Any, filled: int, kind: str) -> None:
        """Say what was filled in, by which model, and how far it is off elsewhere."""
        print(
            f"{self.out}: {filled} {kind} filled in; rank {model.rank_}, regularization "
            f"{model.regularization_:.4g}\n"
            f"held-out error {min(model.validation_error_):.4g} (root mean square, over about "
            f"{model.validation_fraction:.0%} of the observed values, which chose the model; "
            f"their standard deviation is {np.nanstd(values):.4g})"
        )


def _shape(text: str | None) -> tuple[int, int] | None:
    """The shape that ``ROWSxCOLUMNS`` says."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text, flags=re.ASCII)
    if found is None:
        raise ValueError(f"shape must be ROWSxCOLUMNS, such as 100x20, got {text!r}")
    return int(found[1]), int(found[2])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Report | None]:
    """On a terminal, a bar of the bytes read."""
    if not sys.stderr.isatty() or not path.is_file():
        yield None
        return
    tqdm = require("tqdm", extra="estimators")
    size = path.stat().st_size
    with tqdm.tqdm(total=size, desc="reading", unit="B", unit_scale=True, leave=False) as bar:
        yield lambda read: bar.update(read - bar.n)


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """On a terminal, a bar that shows the lines which the estimator prints for each candidate."""
    if not sys.stderr.isatty():
        yield
        return
    tqdm = require("tqdm", extra="estimators")
    with (
        tqdm.tqdm(desc="fitting", unit=" steps", leave=False) as bar,
        contextlib.redirect_stdout(_Lines(bar)),
    ):
        yield


class _Lines:
    """A stream whose lines become steps of a bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def write(self, text: str) -> int:
        """Show a line beside the bar, without the name of the estimator."""
        if text.strip():
            self._bar.set_postfix_str(text.strip().partition(": ")[2], refresh=False)
            self._bar.update(1)
        return len(text)

    def flush(self) -> None:
        """The bar shows itself."""
