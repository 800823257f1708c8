"""Kernels for products whose symmetry the library does not use, where Triton can be imported."""

from polargrad.linalg.kernels.symmetric import covers, tiled_product

__all__ = ["covers", "tiled_product"]
