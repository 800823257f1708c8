"""The command line: ``polargrad COMMAND``, one file a command.

A command's file holds a frozen dataclass, whose fields are its options and whose method ``run``
returns the exit code. It is imported only when the command is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from polargrad.cli.exit_codes import FAILED, INTERRUPTED, NOBODY_READS, WRONG
from polargrad.errors import CollectiveError, NonFiniteError, PolarGradError
from polargrad.records import require


@dataclass(frozen=True)
class Command:
    """Where a command is, which extra it needs, and what it does in a line."""

    module: str
    name: str
    extra: str
    summary: str


COMMANDS = {
    "train": Command(
        "polargrad.cli.train", "Train", "language", "pre-train a language model on text"
    ),
    "cost": Command(
        "polargrad.cli.cost",
        "Cost",
        "language",
        "say what a step takes on a mesh of processes, without the processes",
    ),
    "sweep": Command(
        "polargrad.cli.sweep",
        "Sweep",
        "language",
        "compare optimizers on a language model, each at its best learning rates",
    ),
    "impute": Command(
        "polargrad.cli.impute", "Impute", "estimators", "fill the gaps of a table or of triples"
    ),
    "reproduce": Command(
        "polargrad.cli.reproduce", "Reproduce", "experiments", "repeat the paper's experiments"
    ),
    "theory": Command(
        "polargrad.cli.theory", "Theory", "experiments", "check the paper's theorems with numbers"
    ),
    "sensitivity": Command(
        "polargrad.cli.sensitivity",
        "Sensitivity",
        "experiments",
        "sweep learning rates and the accuracy of the polar factor",
    ),
    "insights": Command(
        "polargrad.cli.insights", "Insights", "language", "test the paper's view of Adam and Muon"
    ),
    "report": Command(
        "polargrad.cli.report", "Report", "experiments", "bring these results together in a report"
    ),
    "bench": Command(
        "polargrad.cli.bench", "Bench", "experiments", "measure speed and accuracy against peers"
    ),
    "methods": Command(
        "polargrad.cli.methods", "Methods", "experiments", "list the methods and what each does"
    ),
    "demo": Command(
        "polargrad.cli.demo", "Demo", "all", "run both in small and write a report of the results"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` asks for (the program's arguments by default).

    Returns:
        The exit code: 0 if all went well, 1 if a run failed, 2 if it was asked for wrongly, 130 if
        it was interrupted by Ctrl-C, 141 if whoever read its output has gone.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(usage(), file=sys.stderr)
        return WRONG
    if words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"polargrad {metadata.version('polargrad')}")
        return 0
    if words[0] not in COMMANDS:
        return _complain(
            "polargrad", f"unknown command {words[0]!r}: choose from {', '.join(COMMANDS)}", WRONG
        )
    return _run(words[0], words[1:])


def usage() -> str:
    """The text of ``polargrad --help``."""
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:<{width}}{c.summary}" for name, c in COMMANDS.items())
    return (
        "usage: polargrad COMMAND [OPTIONS]\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        "  -h, --help  show this text\n"
        "  --version   show the version\n\n"
        "polargrad COMMAND --help shows the options of a command."
    )


def _run(name: str, words: list[str]) -> int:
    """Parse the options of a command and run it; what the user got wrong becomes one line."""
    program = f"polargrad {name}"
    command = COMMANDS[name]
    try:
        tyro = require("tyro", extra=command.extra)
        options: Any = getattr(importlib.import_module(command.module), command.name)
        parsed = tyro.cli(options, prog=program, args=words, config=[tyro.conf.FlagCreatePairsOff])
        code = int(parsed.run())
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # tyro has shown the help (0) or what it could not parse (2)
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        return _complain(program, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # What is still to be written at exit goes nowhere, in silence, as of other programs.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except (NonFiniteError, CollectiveError) as error:
        return _complain(program, error, FAILED)
    except (PolarGradError, ValueError, OSError) as error:
        return _complain(program, error, WRONG)


def _complain(program: str, message: object, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"{program}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code
