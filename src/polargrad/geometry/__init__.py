"""Norms of matrices, their duals and unit directions, and how far a step goes."""

from polargrad.geometry.base import Ascent, Geometry, Norm, State
from polargrad.geometry.centred import Centred
from polargrad.geometry.diagonal import Diagonal
from polargrad.geometry.frobenius import Frobenius
from polargrad.geometry.given_hessian import GivenHessian
from polargrad.geometry.kronecker import Kronecker, OneSidedKronecker
from polargrad.geometry.magnitudes import MAGNITUDES, magnitude
from polargrad.geometry.max_entry import MaxEntry
from polargrad.geometry.polar_then_row import PolarThenRow
from polargrad.geometry.preconditioner import Preconditioner
from polargrad.geometry.registry import GEOMETRIES, geometry, plain
from polargrad.geometry.rotated_diagonal import RotatedDiagonal
from polargrad.geometry.row_then_polar import RowThenPolar
from polargrad.geometry.rows import LargestColumn, LargestRow
from polargrad.geometry.spectral import Spectral

__all__ = [
    "GEOMETRIES",
    "MAGNITUDES",
    "Ascent",
    "Centred",
    "Diagonal",
    "Frobenius",
    "Geometry",
    "GivenHessian",
    "Kronecker",
    "LargestColumn",
    "LargestRow",
    "MaxEntry",
    "Norm",
    "OneSidedKronecker",
    "PolarThenRow",
    "Preconditioner",
    "RotatedDiagonal",
    "RowThenPolar",
    "Spectral",
    "State",
    "geometry",
    "magnitude",
    "plain",
]
