"""Memory, time and error of completing ratings-like triples: the estimator and the command.

    python benchmarks/impute_memory.py [--entries 10000000] [--rows 100000] [--columns 10000]

The table is low-rank plus noise; rows and columns are as unequally popular as those of ratings.
Each line is a process of its own with its peak resident memory. Held-out pairs are asked for with
--predict; their error is against what would have been observed, so the noise is its floor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TRUE_RANK = 5
MEAN, SIGNAL, NOISE = 3.5, 0.7, 0.5
HELD_OUT = 100_000
CHUNK = 1_000_000
DATA, PAIRS, ANSWERS = "triples.csv", "pairs.csv", "answers.npy"


def popular(generator: np.random.Generator, size: int, count: int, spread: float) -> np.ndarray:
    """``count`` indices below ``size``, each with a log-normal popularity."""
    weights = generator.lognormal(sigma=spread, size=size)
    return np.searchsorted(np.cumsum(weights / weights.sum()), generator.random(count)).clip(
        max=size - 1
    )


def make(folder: Path, rows: int, columns: int, entries: int) -> None:
    """Write the triples, and pairs that are not among them with their answers."""
    generator = np.random.default_rng(0)
    held_out = min(HELD_OUT, entries // 10)
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < entries + held_out:
        drawn = popular(generator, rows, entries, 0.8) * columns + popular(
            generator, columns, entries, 1.0
        )
        keys = np.unique(np.concatenate([keys, drawn]))
    generator.shuffle(keys)
    left = generator.normal(size=(rows, TRUE_RANK), scale=SIGNAL / math.sqrt(TRUE_RANK))
    right = generator.normal(size=(columns, TRUE_RANK))

    def values(part: np.ndarray) -> np.ndarray:
        i, j = np.divmod(part, columns)
        return (
            MEAN + np.einsum("kp,kp->k", left[i], right[j]) + NOISE * generator.normal(size=len(i))
        )

    with (folder / DATA).open("w") as file:
        file.write("row,column,value\n")
        for start in range(0, entries, CHUNK):
            part = keys[start : min(start + CHUNK, entries)]
            triples = zip(
                *(a.tolist() for a in (*np.divmod(part, columns), values(part))), strict=True
            )
            file.writelines(f"{i},{j},{value:.3f}\n" for i, j, value in triples)
    i, j = np.divmod(keys[:entries], columns)
    known_rows, known_columns = np.bincount(i, minlength=rows), np.bincount(j, minlength=columns)
    pairs = keys[entries : entries + held_out]
    i, j = np.divmod(pairs, columns)
    pairs = pairs[(known_rows[i] > 0) & (known_columns[j] > 0)]
    np.save(folder / ANSWERS, values(pairs))
    places = zip(*(a.tolist() for a in np.divmod(pairs, columns)), strict=True)
    (folder / PAIRS).write_text("".join(f"{i},{j}\n" for i, j in places))


def fit(folder: Path, rank: int) -> None:
    """Fit the estimator to the triples, and print the seconds of reading and of fitting."""
    # Not above: the process that starts the others has to stay small, see report.
    from polargrad.estimators.completion import MatrixCompletion
    from polargrad.estimators.triples import read_triples

    start = time.perf_counter()
    triples = read_triples(folder / DATA)
    read = time.perf_counter() - start
    start = time.perf_counter()
    MatrixCompletion(rank=rank, random_state=0).fit(triples.matrix())
    print(json.dumps({"reading": read, "fitting": time.perf_counter() - start}))


def run(words: list[str]) -> tuple[str, float, float]:
    """Run a process; returns what it printed, its seconds and its peak resident memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:  # an interruption too: nothing is left to write into the folder
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    # Linux counts in KiB, macOS in bytes.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return printed, time.perf_counter() - start, used.ru_maxrss / unit


def report(folder: Path, options: argparse.Namespace) -> None:
    """Make the data and print a line of a Markdown table for each process."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("rows", "columns", "entries")]
    ours = [sys.executable, __file__, "--folder", str(folder)]
    run([*ours, *sizes, "--stage", "make"])
    # A child starts with its parent's peak, so this process has to stay small.
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{options.rows} x {options.columns}, {options.entries} triples, noise {NOISE}")
    print(f"(this process: {floor / (2**30 if sys.platform == 'darwin' else 2**20):.2f} GiB)\n")
    print("| process | rank | seconds | peak GiB | held-out RMSE / noise |\n|---|---|---|---|---|")
    answers = np.load(folder / ANSWERS)
    for rank in options.ranks:
        printed, seconds, peak = run([*ours, "--stage", "fit", "--ranks", str(rank)])
        parts = ", ".join(f"{name} {value:.0f}" for name, value in json.loads(printed).items())
        print(f"| estimator | {rank} | {seconds:.0f} ({parts}) | {peak:.2f} | |", flush=True)
        out = folder / f"out-{rank}.csv"
        command = [
            sys.executable,
            "-m",
            "polargrad",
            "impute",
            str(folder / DATA),
            "--out",
            str(out),
        ]
        command += ["--predict", str(folder / PAIRS), "--rank", str(rank)]
        printed, seconds, peak = run(command)
        predicted = np.loadtxt(out, delimiter=",", skiprows=1, usecols=2)
        error = math.sqrt(np.mean((predicted - answers) ** 2)) / NOISE
        print(f"| command | {rank} | {seconds:.0f} | {peak:.2f} | {error:.3f} |", flush=True)
        print(f"\n{printed}", file=sys.stderr)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--folder", type=Path, help="where the files are left (default: nowhere)")
    parser.add_argument("--stage", choices=["make", "fit"], help="for the processes of this one")
    options = parser.parse_args()
    if options.stage == "make":
        make(options.folder, options.rows, options.columns, options.entries)
    elif options.stage == "fit":
        fit(options.folder, options.ranks[0])
    elif options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        report(options.folder, options)
    else:
        # Ended from outside, as by timeout, Python would leave the folder behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
        with tempfile.TemporaryDirectory() as folder:
            report(Path(folder), options)


if __name__ == "__main__":
    main()
