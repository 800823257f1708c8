"""The first signal asks to stop, the second aborts, and the handlers go back afterwards."""

import signal
import threading

import pytest

from polargrad.language import interrupts
from polargrad.language.interrupts import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def own_handlers():
    """Handlers that are surely Python's, whatever this test process was started with."""
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in SIGNALS}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("kind", SIGNALS)
def test_the_first_signal_is_a_request(kind):
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(kind)
        assert stop.signal is kind
    assert signal.getsignal(kind) is signal.default_int_handler


@pytest.mark.parametrize("kind", SIGNALS)
def test_the_second_signal_aborts(kind):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(kind)
        assert stop.signal is signal.SIGINT
    assert signal.getsignal(kind) is signal.default_int_handler


def test_what_torchrun_passes_on_is_the_same_request(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    now = 100.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        now += 4.0
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGINT
        now += 2.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    """As nohup and background jobs of a script have it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal is None


def test_outside_the_main_thread_nothing_is_changed():
    found = []

    def run():
        with StopRequest() as stop:
            found.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, signal.default_int_handler)]
