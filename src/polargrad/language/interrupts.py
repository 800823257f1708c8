"""Ctrl-C and SIGTERM as requests to stop after the current step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# A Ctrl-C reaches the processes of torchrun twice: from the terminal, and passed on by torchrun.
LAUNCHED = "TORCHELASTIC_RUN_ID"
SECONDS_OF_ONE_REQUEST = 5.0


class StopRequest:
    """Within ``with``, turns the first SIGINT or SIGTERM into ``signal``; the second one aborts.

    Handlers can only be set by the main thread: in another one nothing is changed and ``signal``
    stays None. A signal that the process was started to ignore stays ignored. Under ``torchrun``
    what comes within five seconds of the first is the same request.

    Example:
        >>> with StopRequest() as stop:
        ...     before = stop.signal
        ...     signal.raise_signal(signal.SIGTERM)
        >>> before, stop.signal.name
        (None, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._requested = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that was not set from Python and could not be set back.
                if signal.getsignal(kind) not in (signal.SIG_IGN, None):
                    self._previous[kind] = signal.signal(kind, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            self._requested = time.monotonic()
            return
        age = time.monotonic() - self._requested
        if LAUNCHED not in os.environ or age > SECONDS_OF_ONE_REQUEST:
            raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
