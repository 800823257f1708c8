"""The geometries by name, and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polargrad.geometry.base import Geometry
from polargrad.geometry.centred import Centred
from polargrad.geometry.diagonal import Diagonal
from polargrad.geometry.frobenius import Frobenius
from polargrad.geometry.given_hessian import GivenHessian
from polargrad.geometry.kronecker import Kronecker, OneSidedKronecker
from polargrad.geometry.max_entry import MaxEntry
from polargrad.geometry.polar_then_row import PolarThenRow
from polargrad.geometry.rotated_diagonal import RotatedDiagonal
from polargrad.geometry.row_then_polar import RowThenPolar
from polargrad.geometry.rows import LargestColumn, LargestRow
from polargrad.geometry.spectral import Spectral
from polargrad.linalg.descriptions import named_options, options_of

__all__ = ["GEOMETRIES", "geometry", "plain"]

KINDS: tuple[type[Geometry], ...] = (
    Frobenius,
    MaxEntry,
    Spectral,
    LargestRow,
    LargestColumn,
    Centred,
    RowThenPolar,
    PolarThenRow,
    Diagonal,
    Kronecker,
    OneSidedKronecker,
    RotatedDiagonal,
    GivenHessian,
)
GEOMETRIES: dict[str, type[Geometry]] = {kind.name: kind for kind in KINDS}
# How a polar factor is computed belongs to the optimizer's group, not to the geometry's data.
SET_BY_THE_OPTIMIZER = ("method", "compute_dtype")
OPTIONS = {name: options_of(kind, SET_BY_THE_OPTIMIZER) for name, kind in GEOMETRIES.items()}
# The option that is a geometry itself.
INNER = "inner"


def geometry(spec: str | Mapping[str, Any] | Geometry) -> Geometry:
    """Return the geometry that a name, plain data or a description stands for.

    Raises:
        ValueError: for an unknown name, or options that the geometry does not have or needs.
        TypeError: for anything else.

    Example:
        >>> geometry("spectral").name
        'spectral'
        >>> geometry({"name": "spectral", "damping": 0.1}).damping
        0.1
        >>> geometry({"name": "centred", "inner": "largest_row"})
        Centred(inner=LargestRow())
    """
    if isinstance(spec, Geometry):
        return spec
    name, options = named_options("geometry", spec, OPTIONS)
    if INNER in options:
        options[INNER] = geometry(options[INNER])
    return GEOMETRIES[name](**options)


def plain(description: Geometry) -> dict[str, Any]:
    """Return a description as plain data, which :func:`geometry` turns back into it.

    The method of the polar factor and its dtype are left out: an optimizer keeps them beside it.

    Example:
        >>> plain(Spectral(damping=0.1))
        {'name': 'spectral', 'side': None, 'damping': 0.1, 'correct': False}
    """
    values = {option: getattr(description, option) for option in OPTIONS[description.name]}
    return {"name": description.name, **{key: _plain(value) for key, value in values.items()}}


def _plain(value: Any) -> Any:
    """A geometry as its data, a tensor as nested lists, all else as it is."""
    if isinstance(value, Geometry):
        return plain(value)
    return value.tolist() if isinstance(value, Tensor) else value
