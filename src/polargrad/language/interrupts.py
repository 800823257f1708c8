"""Ctrl-C and SIGTERM as requests to stop after the current step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Within ``with``, turns the first SIGINT or SIGTERM into ``signal``; the second one aborts.

    Handlers can only be set by the main thread: in another one nothing is changed and ``signal``
    stays None. A signal that the process was started to ignore stays ignored.

    Example:
        >>> with StopRequest() as stop:
        ...     before = stop.signal
        ...     signal.raise_signal(signal.SIGTERM)
        >>> before, stop.signal.name
        (None, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                # None: a handler that was not set from Python and could not be set back.
                if signal.getsignal(kind) not in (signal.SIG_IGN, None):
                    self._previous[kind] = signal.signal(kind, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
