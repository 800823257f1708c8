"""polargrad: optimizers and polar decompositions for matrices."""

from polargrad import linalg
from polargrad.linalg import polar, polar_factor

__all__ = ["linalg", "polar", "polar_factor"]
