"""The entry point: help, version, unknown commands, and how errors become one line."""

import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

import pytest

from polargrad import cli
from polargrad.cli import Command, main
from polargrad.errors import DataError, MissingExtraError, NonFiniteError


@dataclass(frozen=True)
class Fail:
    """A command that ends as it is told."""

    how: str = "return"
    """What happens."""

    def run(self) -> int:
        errors = {
            "value": ValueError("x must be 1,\n  got 2"),
            "data": DataError("no data"),
            "file": FileNotFoundError(2, "No such file", "a.txt"),
            "non-finite": NonFiniteError("the loss became nan"),
            "ctrl-c": KeyboardInterrupt(),
        }
        if self.how in errors:
            raise errors[self.how]
        return 7


@pytest.fixture
def fail(monkeypatch):
    """``polargrad fail``, which is the dataclass above."""
    monkeypatch.setitem(cli.COMMANDS, "fail", Command("tests_fail", "Fail", "language", "fail"))
    monkeypatch.setitem(sys.modules, "tests_fail", sys.modules[__name__])


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("value", 2, "polargrad fail: error: x must be 1, got 2"),
        ("data", 2, "polargrad fail: error: no data"),
        ("file", 2, "polargrad fail: error: [Errno 2] No such file: 'a.txt'"),
        ("non-finite", 1, "polargrad fail: error: the loss became nan"),
        ("ctrl-c", 130, "polargrad fail: error: interrupted"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(fail, capsys, how, code, message):
    assert main(["fail", "--how", how]) == code
    assert capsys.readouterr() == ("", message + "\n")


def test_the_exit_code_is_that_of_the_command(fail):
    assert main(["fail"]) == 7


def test_an_unknown_option_is_named_and_ends_with_2(fail, capsys):
    assert main(["fail", "--hwo", "value"]) == 2
    assert "--hwo" in capsys.readouterr().err


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "usage: polargrad COMMAND" in shown
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in shown
        assert command.summary in shown


def test_without_a_command_the_help_is_shown_as_an_error(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: polargrad COMMAND" in err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"polargrad {metadata.version('polargrad')}\n"


def test_an_unknown_command_is_refused_with_the_choices(capsys):
    assert main(["trian"]) == 2
    message = f"unknown command 'trian': choose from {', '.join(cli.COMMANDS)}\n"
    assert capsys.readouterr().err == "polargrad: error: " + message


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    def missing(module, *, extra):
        raise MissingExtraError(f"needs {module!r}: pip install 'polargrad[{extra}]'")

    monkeypatch.setattr(cli, "require", missing)
    assert main(["train", "--out", "x"]) == 2
    message = "polargrad train: error: needs 'tyro': pip install 'polargrad[language]'\n"
    assert capsys.readouterr().err == message


def test_a_reader_that_goes_away_is_no_error():
    """As in ``polargrad reproduce --help | head -1``."""
    command = f"{sys.executable} -m polargrad reproduce --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("usage: polargrad reproduce")
    assert done.stdout.splitlines()[1] in ("0", "141")  # all was written before head went, or not
    assert done.stderr == ""


def test_the_module_runs_as_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "polargrad", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown command 'nothing'" in done.stderr
