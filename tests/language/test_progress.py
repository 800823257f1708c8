"""Lines where there is no terminal, a bar where there is one."""

import io
import sys

from polargrad.language import progress as progress_module
from polargrad.language.progress import Progress, TokenCount


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_lines_come_with_the_validation_loss_and_at_the_end(capsys):
    with Progress(label="run", first=0, steps=4) as progress:
        progress.report(1, 3.0, None)
        progress.report(2, 2.0, 2.5)
        progress.report(3, 1.5, None)
        progress.report(4, 1.0, None)
    assert capsys.readouterr().err.splitlines() == [
        "run: step 2/4, loss 2.000, validation 2.500",
        "run: step 4/4, loss 1.000",
    ]


def test_without_a_terminal_a_slow_run_speaks_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with Progress(label="run", first=0, steps=100) as progress:
        for step in range(1, 9):
            progress.report(step, 1.0, None)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) < 8


def test_on_a_terminal_there_is_a_bar_that_counts_on_from_the_first_step(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(label="run", first=2, steps=4) as progress:
        progress.say("a line")
        progress.report(3, 2.0, 2.5)
        progress.report(4, 1.0, None)
    last = screen.getvalue().split("\r")[-1]
    assert "a line" in screen.getvalue()
    assert "run: 100%" in last
    assert "4/4" in last
    assert "loss=1.000, validation=2.500" in last


def test_tokens_are_counted_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 16.0, 16.5, 20.0, 32.0, 32.5])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    count = TokenCount()
    for tokens in (1_000_000, 2_000_000, 3_000_000, 4_250_000):
        count(tokens)
    assert capsys.readouterr().err.splitlines() == [
        "tokenizing: 2.0 M tokens so far",
        "tokenizing: 4.2 M tokens so far",
    ]
