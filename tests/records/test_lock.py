"""One process at a time in a folder: the lock, and what is left when its holder dies."""

import subprocess
import sys

import pytest

from polargrad.errors import RunFolderError
from polargrad.records import exclusive

HOLD = """
import sys
from pathlib import Path
from polargrad.records import exclusive
with exclusive(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_another_process_is_kept_out(holder, tmp_path):
    with (
        pytest.raises(RunFolderError, match="another process is at work"),
        exclusive(tmp_path / "a"),
    ):
        pass
    with exclusive(tmp_path / "b"):
        pass


def test_a_dead_process_keeps_nobody_out(holder, tmp_path):
    holder.kill()
    holder.wait()
    with exclusive(tmp_path / "a"):
        assert (tmp_path / ".a.lock").exists()
    assert not (tmp_path / ".a.lock").exists()


def test_an_error_gives_it_back(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "a"):
        pass
