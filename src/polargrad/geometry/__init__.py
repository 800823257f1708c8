"""Norms of matrices, their duals and unit directions, and how far a step goes."""

from polargrad.geometry.magnitudes import MAGNITUDES, magnitude
from polargrad.geometry.norms import Ascent, Spectral

__all__ = ["MAGNITUDES", "Ascent", "Spectral", "magnitude"]
