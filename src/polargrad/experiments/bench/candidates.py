"""Our side of the benchmark: every registered method with sensible options, and the planner."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from polargrad.linalg import METHODS, Method, label, method, plain, polar, polar_factor

AUTO = "auto"

# Options worth measuring of methods whose steps are not simply "more is better"; the other methods
# are measured by what options they have, see `variants`.
CHOSEN: dict[str, tuple[dict[str, Any], ...]] = {
    # Muon's own formula, which more steps do not improve, and the classic one, which needs many.
    "newton_schulz": ({}, {"coefficients": "cubic", "steps": 12}),
    # The degree changes what it costs, not what comes out.
    "zolotarev": ({},),
    "preconditioned_newton_schulz": ({},),
    "gram_eigh": ({"polish": None},),
}
STEPS = (5, 6, 8)
DEGREES = (3, 4, 6)


@dataclass(frozen=True)
class Candidate:
    """One way of ours to the polar factor: a method, or the planner with its tolerances."""

    label: str
    method: Method
    tol: float | None = None
    planned: bool = False

    def __call__(self, A: Tensor) -> Tensor:
        """The factor, through the public function and all that stands in front of a method."""
        if self.planned:
            return polar_factor(A, tol=self.tol)
        return polar_factor(A, method=self.method)


def parse_method(word: str) -> str | Method:
    """Return "auto", a name of the registry, or the method that a JSON object describes.

    Raises:
        ValueError: for an unknown name, options that the method does not have, or malformed JSON.

    Example:
        >>> parse_method("qdwh"), parse_method('{"name": "qdwh", "steps": 2}').steps
        ('qdwh', 2)
    """
    if word.lstrip().startswith("{"):
        try:
            return method(json.loads(word))
        except json.JSONDecodeError as error:
            raise ValueError(f"the method {word!r} is not JSON: {error}") from None
        except TypeError as error:
            raise ValueError(f"the method {word!r} is incomplete or malformed: {error}") from None
    if word not in (AUTO, *METHODS):
        raise ValueError(f"a method must be one of {AUTO}, {', '.join(METHODS)}, got {word!r}")
    return word


def variants(kind: type[Method], tolerances: Iterable[float]) -> list[Method]:
    """Return the descriptions of a kind of method that are worth measuring.

    A kind that takes a tolerance is measured with each; one of products alone with several numbers
    of steps, in its tightest normalisation; one that takes a degree with several.

    Raises:
        TypeError: if the kind can't be described without options.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    tight = {"bound": "schatten4"} if "bound" in known else {}
    options: list[Mapping[str, Any]]
    if kind.name in CHOSEN:
        options = list(CHOSEN[kind.name])
    elif "tol" in known:
        options = [{}, *({"tol": tol} for tol in tolerances)]
    elif "steps" in known and kind.products_only:
        options = [{"steps": steps, **tight} for steps in STEPS]
    elif "degree" in known:
        options = [{"degree": degree} for degree in DEGREES]
    else:
        options = [{}]
    found: list[Method] = []
    for chosen in options:
        try:
            description = kind(**chosen)
        except ValueError:
            if not chosen:
                raise
            continue  # not every kind allows every number of steps
        if description not in found:
            found.append(description)
    return found


def candidates(
    A: Tensor, words: Sequence[str], tolerances: Sequence[float]
) -> tuple[list[Candidate], dict[str, str]]:
    """Return what is measured on A, and by label why something is not.

    Args:
        A: the matrix, for which the planner is asked.
        words: as :func:`parse_method` reads them; none stands for all.
        tolerances: of the planner, besides none (converged), and of methods that take one.
    """
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    for word in words or (AUTO, *METHODS):
        parsed = parse_method(word)
        if not isinstance(parsed, str):
            found.append(Candidate(label(parsed), parsed))
        elif parsed == AUTO:
            found.extend(_planned(A, tolerances))
        else:
            try:
                kinds = variants(METHODS[parsed], tolerances)
            except TypeError as error:
                skipped[parsed] = f"needs options, give it as JSON: {error}"
                continue
            found.extend(Candidate(label(description), description) for description in kinds)
    return list({candidate.label: candidate for candidate in found}.values()), skipped


def _planned(A: Tensor, tolerances: Sequence[float]) -> list[Candidate]:
    """One candidate for each method that the planner chooses, labelled with what it is chosen for.

    The tolerances that it serves with the same method would be the same measurement.
    """
    served: dict[Method, list[float | None]] = {}
    for tol in (None, *tolerances):
        served.setdefault(polar(A, tol=tol).method, []).append(tol)
    result = []
    for description, tols in served.items():
        words = ["converged" if tol is None else f"tol={tol:g}" for tol in tols]
        result.append(Candidate(f"auto({', '.join(words)})", description, tols[0], planned=True))
    return result


def method_data(candidate: Candidate) -> dict[str, Any]:
    """The method of a candidate as plain data."""
    return plain(candidate.method)
