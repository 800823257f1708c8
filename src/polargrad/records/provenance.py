"""Where a number comes from: versions, machine, threads, time."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def provenance() -> dict[str, str | int]:
    """Return versions, processor, threads, commit and time, as a record keeps them.

    Example:
        >>> sorted(provenance())[:3]
        ['commit', 'cores', 'operating_system']
    """
    return {
        "polargrad": metadata.version("polargrad"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "operating_system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """The processor's name; Linux keeps it in a file, elsewhere the platform module knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the source tree that is running, or why there is none."""
    here = Path(__file__).parent
    try:
        commit, status = (
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, timeout=5, check=True
            ).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return "not in a git checkout"
    return f"{commit} with changes" if status else commit
