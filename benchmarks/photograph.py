"""A photograph without 70 % of its pixels: MatrixCompletion, soft-impute, least squares in turn.

    python benchmarks/photograph.py [--peers PYTHON ...] [--masks 0 1 2 3 4] [--fits 12]
        [--folder FOLDER] [--out docs/data/photograph.json] [--figure docs/images/photograph.png]

The photograph is scikit-learn's china.jpg in grey, 427 × 640, from 0 (black) to 1. Mask k is drawn
with seed k, and with it the tenth of the observed pixels that is held out, the same for all. Each
method has as many fits to choose from (a path of regularisations, or pairs of rank and
regularisation), the held-out error chooses, and the choice is fitted to all observed pixels. Both
the error on the missing pixels, which no method sees, and the time of all of this are shown.

The peers are independent packages, and not all of them can be installed together: --peers takes one
interpreter or several, and each peer runs in the first that has it. Those that none has are skipped
with the command that installs them. photograph_peers.py says how each is called. What a method made
of a mask is kept in --folder, so that a run which was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import photograph_peers as peers
from sklearn.datasets import load_sample_image
from sklearn.exceptions import ConvergenceWarning

from polargrad.estimators import MatrixCompletion
from polargrad.records import provenance, require, write_atomically, write_json
from polargrad.records.figures import COLOURS, STYLE, save_png

MISSING, HELD_OUT = 0.7, 0.1
GAP = "lightsteelblue"  # in the figure, of a missing pixel: neither black nor white
SOFT, ALTERNATING = "soft-impute", "alternating least squares"
PEERS = {  # method → its family, its name in the table, what installs it
    "fancyimpute": (SOFT, "fancyimpute", "'fancyimpute==0.7.0' 'scikit-learn<1.8'"),
    "fancyimpute-raw": (
        SOFT,
        "fancyimpute, offsets kept",
        "'fancyimpute==0.7.0' 'scikit-learn<1.8'",
    ),
    "qolmat": (SOFT, "qolmat", "qolmat"),
    "cmfrec": (ALTERNATING, "cmfrec", "cmfrec threadpoolctl"),
    "lenskit": (ALTERNATING, "lenskit", "lenskit"),
    "tensorly": (ALTERNATING, "tensorly", "tensorly"),
}
OURS = "MatrixCompletion"
SAME_PROBLEM = "MatrixCompletion(concavity=0)"


@dataclass
class Result:
    """What a method did with each mask.

    Attributes:
        family: soft-impute, alternating least squares, or ours.
        label: its line in the table.
        runs: for each mask its error, its seconds, its candidates, and what it chose.
        filled: the completed photograph, one a mask.
    """

    family: str
    label: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    filled: list[np.ndarray] = field(default_factory=list)

    @property
    def errors(self) -> list[float]:
        """The root mean square error on the missing pixels of each mask."""
        return [run["rmse"] for run in self.runs]

    @property
    def mean(self) -> float:
        """The mean of ``errors``."""
        return statistics.fmean(self.errors)


def make_task(photograph: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What a method sees, and which pixels are missing."""
    random = np.random.default_rng(seed)
    missing = random.random(photograph.shape) < MISSING
    held_out = ~missing & (random.random(photograph.shape) < HELD_OUT)
    observed = np.where(missing, np.nan, photograph)
    training = np.where(held_out, np.nan, observed)
    return {"training": training, "observed": observed, "held_out": held_out}, missing


def ours(concavity: dict[str, float]) -> Callable[[dict[str, np.ndarray], int], Any]:
    """MatrixCompletion on a path of λ, each fit from the start; else as it comes."""

    def solve(task: dict[str, np.ndarray], fits: int) -> dict[str, np.ndarray]:
        def fit(table: np.ndarray, candidate: peers.Candidate) -> np.ndarray:
            model = MatrixCompletion(
                peers.MOST,
                regularization=candidate[0],
                early_stopping=False,
                random_state=0,
                **concavity,
            )
            return np.asarray(model.fit_transform(table))

        return peers.tune(fit, peers.falling, task, fits)

    return solve


def in_one_call(task: dict[str, np.ndarray], fits: int) -> dict[str, np.ndarray]:
    """MatrixCompletion() as a user calls it: it holds out pixels of its own."""
    del fits
    start = time.perf_counter()
    model = MatrixCompletion(random_state=0)
    filled = model.fit_transform(task["observed"])
    return {
        "filled": filled,
        "candidates": np.array(model.validation_path_)[:, 1:],
        "errors": model.validation_error_,
        "seconds": np.array(time.perf_counter() - start),
    }


OWN = {
    OURS: ours({}),
    SAME_PROBLEM: ours({"concavity": 0.0}),
    "MatrixCompletion() in one call": in_one_call,
}


def found_peers(interpreters: list[str], wanted: list[str]) -> dict[str, tuple[str, str]]:
    """The interpreter and the version of each peer that one of the interpreters has."""
    found: dict[str, tuple[str, str]] = {}
    for method in wanted:
        for interpreter in interpreters:
            words = [interpreter, peers.__file__, method]
            try:
                asked = subprocess.run(words, capture_output=True, text=True, check=False)
            except OSError as error:
                raise SystemExit(f"--peers {interpreter} cannot be run: {error}") from None
            if asked.returncode == 0:
                found[method] = (interpreter, asked.stdout.strip().splitlines()[-1])
                break
        else:
            needed = PEERS[method][2]
            say(f"{method} is skipped, no interpreter of --peers has it: pip install {needed}")
    return found


def run_peer(
    interpreter: str, method: str, task: dict[str, np.ndarray], fits: int
) -> dict[str, np.ndarray] | None:
    """What a peer makes of a task, or None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "task.npz"), Path(folder, "result.npz")
        np.savez(given, **task)
        words = [interpreter, peers.__file__, method, str(given), str(result), f"--fits={fits}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say(f"{method} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
            return None
        return loaded(result)


def loaded(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file."""
    with np.load(path) as file:
        return dict(file)


def note(result: Result, solved: dict[str, Any], photograph: np.ndarray, missing: Any) -> None:
    """Keep the error and the choice of a mask."""
    errors, candidates = solved["errors"], solved["candidates"]
    best = int(np.nanargmin(errors))
    filled = np.where(missing, solved["filled"], photograph)  # some peers replace what was seen
    result.filled.append(filled)
    result.runs.append(
        {
            "rmse": float(np.sqrt(np.mean((filled - photograph)[missing] ** 2))),
            "seconds": round(float(solved["seconds"]), 2),
            "chosen": candidates[best].tolist(),
            "candidates": candidates.tolist(),
            "held_out_rmse": errors.tolist(),
        }
    )
    say(f"{result.label}: {result.runs[-1]['rmse']:.4f}, {result.runs[-1]['seconds']:.0f} s")


def measure(photograph: np.ndarray, options: argparse.Namespace) -> dict[str, Result]:
    """All methods on all masks."""
    found = found_peers(options.peers, options.methods)
    results = {name: Result(OURS, name) for name in OWN}
    if any(PEERS[method][0] == SOFT for method in found):
        del results[SAME_PROBLEM]  # it stands for the peers where there are none
    for method, (_, version) in found.items():
        family, label, _ = PEERS[method]
        results[method] = Result(family, f"{family}, {label} ({version})")
    for seed in options.masks:
        say(f"mask {seed}")
        task, missing = make_task(photograph, seed)
        for name in list(results):
            kept = options.folder and options.folder / f"{name}-{seed}-{options.fits}.npz"
            if kept and kept.exists():
                solved = loaded(kept)
            elif name in OWN:
                solved = OWN[name](task, options.fits)
            else:
                solved = run_peer(found[name][0], name, task, options.fits)
            if solved is None:
                del results[name]
                continue
            if kept and not kept.exists():
                write_atomically(kept, functools.partial(np.savez, **solved))
            note(results[name], solved, photograph, missing)
    return results


def best_of(results: dict[str, Result], family: str) -> Result | None:
    """The member of a family with the smallest mean error."""
    members = [result for result in results.values() if result.family == family]
    return min(members, key=lambda result: result.mean, default=None)


def table_of(results: dict[str, Result], masks: list[int]) -> str:
    """The results as a Markdown table."""
    numbers = " | ".join(f"mask {seed}" for seed in masks)
    rule = "|---" * (len(masks) + 3) + "|"
    lines = [f"| method | RMSE, mean | {numbers} | seconds, median |", rule]
    for result in results.values():
        errors = " | ".join(f"{error:.4f}" for error in result.errors)
        seconds = statistics.median(run["seconds"] for run in result.runs)
        lines.append(f"| {result.label} | {result.mean:.4f} | {errors} | {seconds:.0f} |")
    return "\n".join(lines)


def verdict(results: dict[str, Result]) -> str:
    """Whether ours is no worse than the best peer of each family."""
    lines = []
    for family in (SOFT, ALTERNATING):
        peer = best_of(results, family)
        if peer is None:
            lines.append(f"no independent {family}: the line of concavity=0 is the same problem")
            continue
        pairs = zip(results[OURS].errors, peer.errors, strict=True)
        count = sum(mine <= theirs for mine, theirs in pairs)
        ratio = results[OURS].mean / peer.mean
        lines.append(
            f"{OURS} against {peer.label}, the best of its kind: error times {ratio:.3f}, "
            f"no worse on {count} of {len(peer.errors)} masks"
        )
    return "\n".join(lines)


def draw(photograph: np.ndarray, results: dict[str, Result], masks: list[int], path: Path) -> None:
    """The pictures of the first mask with their errors, and the errors of all masks."""
    matplotlib = require("matplotlib", extra="experiments")
    require("matplotlib.figure", extra="experiments")
    task, missing = make_task(photograph, masks[0])
    shown = [results[OURS], best_of(results, SOFT), best_of(results, ALTERNATING)]
    kept = [result for result in shown if result is not None]
    pictures = [("photograph", photograph), (f"{1 - missing.mean():.0%} of it", task["observed"])]
    pictures += [(f"{r.label}\nRMSE {r.errors[0]:.4f}", r.filled[0]) for r in kept]
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(13.5, 7.2), layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        for axis, (title, picture) in zip(axes, pictures, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.grid(False)
            axis.set(xticks=[], yticks=[], facecolor=GAP)
            axis.spines[:].set_visible(False)
            axis.set_xlabel(title)
        for axis in axes[len(pictures) : -1]:
            axis.set_axis_off()
        for k, result in enumerate(kept):
            axes[-1].plot(masks, result.errors, "o-", color=COLOURS[k], label=result.label)
        axes[-1].set(xlabel="mask", ylabel="RMSE on the missing pixels")
        axes[-1].set_xticks(masks)
        axes[-1].legend(loc="best")
    save_png(figure, path)


def say(line: str) -> None:
    """Tell of the progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Print the table; write the record and the figure where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--methods", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--masks", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fits", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where results are kept and looked for")
    parser.add_argument("--out", type=Path, help="the record, as JSON")
    parser.add_argument("--figure", type=Path, help="the pictures, as PNG")
    options = parser.parse_args()
    if min(options.masks) < 0 or options.fits < 1:
        raise SystemExit("--masks must be at least 0 and --fits at least 1")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)  # of candidates; their error is what counts
    photograph = load_sample_image("china.jpg").mean(axis=2) / 255
    results = measure(photograph, options)
    print(f"{table_of(results, options.masks)}\n\n{verdict(results)}")
    if options.out is not None:
        record = {
            "photograph": "china.jpg of scikit-learn, grey",
            "shape": list(photograph.shape),
            "missing": MISSING,
            "held_out": HELD_OUT,
            "fits": options.fits,
            "masks": options.masks,
            "results": [
                {"family": r.family, "label": r.label, "mean_rmse": r.mean, "runs": r.runs}
                for r in results.values()
            ],
            "provenance": provenance(),
        }
        write_json(options.out, record)
    if options.figure is not None:
        draw(photograph, results, options.masks, options.figure)


if __name__ == "__main__":
    main()
