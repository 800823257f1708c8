"""What a run says while it goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from polargrad.records import require

SECONDS_BETWEEN_LINES = 15.0


class TokenCount:
    """Says on stderr, now and then, how many tokens there are so far while text is tokenized."""

    def __init__(self) -> None:
        self._last_line = time.monotonic()

    def __call__(self, tokens: int) -> None:
        """Take notice of the number of tokens so far."""
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"tokenizing: {tokens / 1e6:,.1f} M tokens so far", file=sys.stderr, flush=True)


class Progress:
    """Reports steps on stderr."""

    def __init__(self, *, label: str, first: int, steps: int) -> None:
        self._label = label
        self._steps = steps
        self._last_line = time.monotonic()
        self._shown: dict[str, str] = {}
        self._bar: Any = None
        if sys.stderr.isatty():
            tqdm = require("tqdm", extra="language")
            self._bar = tqdm.tqdm(
                total=steps, initial=first, desc=label, unit="step", file=sys.stderr
            )

    def say(self, text: str) -> None:
        """Print a line, without tearing the bar."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def report(self, step: int, loss: float, validation_loss: float | None) -> None:
        """Report that ``step`` is done, with its losses."""
        self._shown["loss"] = f"{loss:.3f}"
        if validation_loss is not None:
            self._shown["validation"] = f"{validation_loss:.3f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update(1)
            return
        overdue = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if validation_loss is not None or overdue or step == self._steps:
            self._last_line = time.monotonic()
            losses = ", ".join(f"{name} {value}" for name, value in self._shown.items())
            self.say(f"{self._label}: step {step}/{self._steps}, {losses}")
            self._shown.clear()  # a loss measured long ago must not look new

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
