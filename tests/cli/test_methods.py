"""The command prints the table that the package holds."""

import json

from polargrad.cli import main
from polargrad.geometry import taxonomy


def test_it_prints_the_table(capsys):
    assert main(["methods"]) == 0
    shown = capsys.readouterr()
    assert shown.out == taxonomy.as_text() + "\n"
    assert shown.err == ""
    for entry in taxonomy.METHODS:
        assert f"{entry.name}: {entry.call}\n    {entry.rule}\n" in shown.out
        row = next(line for line in shown.out.splitlines() if line.startswith(f"{entry.name}  "))
        assert entry.equivariance in row


def test_json_holds_every_field_of_every_entry(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row, entry in zip(rows, taxonomy.METHODS, strict=True):
        assert row.pop("call") == entry.call
        assert taxonomy.Entry(**row) == entry


def test_an_unknown_option_ends_with_2(capsys):
    assert main(["methods", "--xml"]) == 2
    assert "--xml" in capsys.readouterr().err
