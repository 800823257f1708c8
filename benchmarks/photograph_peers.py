"""One peer of benchmarks/photograph.py, in an interpreter that has it: tuned, refitted, timed.

    PYTHON benchmarks/photograph_peers.py METHOD TASK.npz RESULT.npz [--fits 12]
    PYTHON benchmarks/photograph_peers.py METHOD

The second form prints the version of the peer, and fails where it cannot be imported. Nothing but
NumPy and the peer is needed. The task holds ``training`` and ``observed``, tables with NaN for what
is missing, and ``held_out``, the mask of the entries that are in one of them alone. The result
holds ``filled``, ``candidates``, ``errors`` on the held-out entries, and ``seconds``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

Candidate = tuple[float, ...]
STEP = 0.5**0.5  # from one regularisation to the next, as on the path of MatrixCompletion
RANKS, WEIGHTS = (10, 30, 60, 100), 3  # of alternating least squares: twelve pairs
MOST = 100  # components, where a rank is asked for but the regularisation decides


def offsets(table: np.ndarray) -> np.ndarray:
    """Row and column means of what is observed, in turn."""
    rows, columns = np.zeros((len(table), 1)), np.zeros(table.shape[1])
    for _ in range(5):
        rows = np.nanmean(table - columns, axis=1, keepdims=True)
        columns = np.nanmean(table - rows, axis=0)
    return rows + columns


def falling(table: np.ndarray, fits: int) -> list[Candidate]:
    """λ from the largest singular value of what its offsets leave of the table, 0 in the gaps."""
    largest = float(np.linalg.norm(np.nan_to_num(table - offsets(table)), 2))
    return [(largest * STEP**k,) for k in range(1, fits + 1)]


def pairs(weights: tuple[float, ...]) -> Callable[[np.ndarray, int], list[Candidate]]:
    """Ranks with the regularisations that suit them, of which ``fits`` are taken."""

    def grid(table: np.ndarray, fits: int) -> list[Candidate]:
        del table
        return [(float(rank), weight) for weight in weights for rank in RANKS][:fits]

    return grid


def fancyimpute(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """SoftImpute with its defaults: a singular value decomposition in each step."""
    from fancyimpute import SoftImpute

    base = offsets(table)
    solver = SoftImpute(shrinkage_value=candidate[0], verbose=False)
    return base + solver.fit_transform(table - base)


def fancyimpute_raw(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """The same without offsets."""
    from fancyimpute import SoftImpute

    return SoftImpute(shrinkage_value=candidate[0], verbose=False).fit_transform(table)


def qolmat(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """Soft-impute by alternating least squares, of which the rank is bounded by 100."""
    from qolmat.imputations.softimpute import SoftImpute

    base = offsets(table)
    solver = SoftImpute(rank=MOST, tau=candidate[0], random_state=0)
    return base + solver.decompose(table - base, ~np.isnan(table))[0]


def cmfrec(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """Alternating least squares with row and column biases."""
    import pandas
    from cmfrec import CMF

    rows, columns = np.nonzero(~np.isnan(table))
    entries = pandas.DataFrame({"UserId": rows, "ItemId": columns, "Rating": table[rows, columns]})
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    model = CMF(
        k=int(candidate[0]), lambda_=candidate[1], verbose=False, random_state=0, nthreads=threads
    )
    model.fit(entries)
    i, j = np.indices(table.shape).reshape(2, -1)
    return np.asarray(model.predict(i, j)).reshape(table.shape)


def lenskit(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """Alternating least squares on what damped means leave."""
    import pandas
    from lenskit.als import BiasedMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    rows, columns = np.nonzero(~np.isnan(table))
    entries = pandas.DataFrame(
        {"user_id": rows, "item_id": columns, "rating": table[rows, columns]}
    )
    model = BiasedMFScorer(features=int(candidate[0]), regularization=candidate[1])
    model.train(from_interactions_df(entries), TrainingOptions(rng=0))
    users, items = model.users.ids(), model.items.ids()  # every row and column has entries
    filled = np.empty(table.shape)
    filled[np.ix_(users, items)] = model.user_embeddings @ model.item_embeddings.T
    bias = model.bias
    filled[users] += np.asarray(bias.user_biases)[:, None]
    filled[:, items] += np.asarray(bias.item_biases)
    return filled + bias.global_bias


def tensorly(table: np.ndarray, candidate: Candidate) -> np.ndarray:
    """A CP decomposition of a tensor with two modes, the gaps imputed in each sweep."""
    from tensorly.cp_tensor import cp_to_tensor
    from tensorly.decomposition import parafac

    base = offsets(table)
    model = parafac(
        np.nan_to_num(table - base),
        int(candidate[0]),
        l2_reg=candidate[1],
        mask=~np.isnan(table),
        random_state=0,
    )
    return base + cp_to_tensor(model)


# method → (package, how it is fitted, its candidates). The regularisations of alternating least
# squares are in the unit of each package, refined once by the held-out errors of mask 0.
METHODS: dict[str, tuple[str, Callable[..., np.ndarray], Callable[..., list[Candidate]]]] = {
    "fancyimpute": ("fancyimpute", fancyimpute, falling),
    "fancyimpute-raw": ("fancyimpute", fancyimpute_raw, falling),
    "qolmat": ("qolmat", qolmat, falling),
    "cmfrec": ("cmfrec", cmfrec, pairs((0.7, 1.0, 1.4))),
    "lenskit": ("lenskit", lenskit, pairs((0.006, 0.0085, 0.012))),
    "tensorly": ("tensorly", tensorly, pairs((0.7, 1.0, 1.4))),
}


def tune(
    fit: Callable[..., np.ndarray],
    grid: Callable[..., list[Candidate]],
    task: dict[str, np.ndarray],
    fits: int,
) -> dict[str, np.ndarray]:
    """Fit each candidate to the training entries, and the best of them to all that is observed."""
    start = time.perf_counter()
    held_out, observed = task["held_out"], task["observed"]
    candidates = grid(task["training"], fits)
    errors = []
    for candidate in candidates:
        filled = fit(task["training"].copy(), candidate)
        errors.append(float(np.sqrt(np.mean((filled - observed)[held_out] ** 2))))
    filled = fit(observed.copy(), candidates[int(np.nanargmin(errors))])
    return {
        "filled": filled,
        "candidates": np.array(candidates),
        "errors": np.array(errors),
        "seconds": np.array(time.perf_counter() - start),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what a peer prints to nowhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def main() -> None:
    """Print the version, or solve a task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("task", nargs="?")
    parser.add_argument("result", nargs="?")
    parser.add_argument("--fits", type=int, default=12)
    options = parser.parse_args()
    package, fit, grid = METHODS[options.method]
    with quiet():
        importlib.import_module(package)
    if options.task is None:
        print(importlib.metadata.version(package))
        return
    with np.load(options.task) as task, quiet():
        result = tune(fit, grid, dict(task), options.fits)
    np.savez(options.result, **result)


if __name__ == "__main__":
    main()
