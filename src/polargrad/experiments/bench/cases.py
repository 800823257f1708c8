"""The matrices of the benchmark: shapes and spectra as words, and a stack for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}


@dataclass(frozen=True)
class Shape:
    """A matrix, or a stack of ``batch`` equal ones.

    Example:
        >>> Shape.parse("64x32x16")
        Shape(rows=32, columns=16, batch=64)
        >>> str(Shape.parse("500x100"))
        '500x100'
    """

    rows: int
    columns: int
    batch: int | None = None

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the shape that a word like 500x100 or 64x32x16 stands for.

        Raises:
            ValueError: if the word is none.
        """
        if re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text) is None:
            raise ValueError(
                "a shape must be ROWSxCOLUMNS or BATCHxROWSxCOLUMNS, as 500x100 or 64x32x16, "
                f"got {text!r}"
            )
        *batch, rows, columns = map(int, text.split("x"))
        return cls(rows, columns, *batch)

    @property
    def size(self) -> tuple[int, ...]:
        """As a tensor has it."""
        matrix = (self.rows, self.columns)
        return matrix if self.batch is None else (self.batch, *matrix)

    def __str__(self) -> str:
        return "x".join(map(str, self.size))


def _flat(count: int, _: float) -> Tensor:
    return torch.ones(count, dtype=torch.float64)


def _spiked(count: int, condition: float) -> Tensor:
    sigma = torch.full((count,), 1.0 / condition, dtype=torch.float64)
    sigma[0] = 1.0
    return sigma


def _power_law(count: int, _: float) -> Tensor:
    return 1.0 / torch.arange(1, count + 1, dtype=torch.float64)


def _geometric(count: int, condition: float) -> Tensor:
    return condition ** -torch.linspace(0.0, 1.0, count, dtype=torch.float64)


def _half_large_half_small(count: int, condition: float) -> Tensor:
    sigma = torch.ones(count, dtype=torch.float64)
    sigma[(count + 1) // 2 :] = 1.0 / condition
    return sigma


@dataclass(frozen=True)
class _Kind:
    """The singular values of a spectrum, from the largest, which is 1; None for random entries."""

    sigma: Callable[[int, float], Tensor] | None
    condition: float | None = None  # what an own condition number defaults to, if it takes one


SPECTRA: dict[str, _Kind] = {
    "gaussian": _Kind(None),
    "flat": _Kind(_flat),
    "spiked": _Kind(_spiked, 1e2),
    "power-law": _Kind(_power_law),
    "geometric": _Kind(_geometric, 1e4),
    "half-large-half-small": _Kind(_half_large_half_small, 1e4),
}


@dataclass(frozen=True)
class Spectrum:
    """How the singular values lie.

    gaussian: independent normal entries; flat: all 1; spiked: one 1, the others 1/κ; power-law:
    1/i; geometric: from 1 to 1/κ, evenly in the logarithm; half-large-half-small: 1 and 1/κ.

    Example:
        >>> Spectrum.parse("spiked:10").sigma(3)
        tensor([1.0000, 0.1000, 0.1000], dtype=torch.float64)
        >>> str(Spectrum.parse("geometric"))
        'geometric:10000'
    """

    name: str
    condition: float | None = None

    @classmethod
    def parse(cls, text: str) -> Spectrum:
        """Return the spectrum that a word stands for: a name, or name:κ where it takes one.

        Raises:
            ValueError: for an unknown name, or a κ that is no number from 1 or is not taken.
        """
        name, colon, number = text.partition(":")
        if name not in SPECTRA:
            raise ValueError(f"a spectrum must be one of {', '.join(SPECTRA)}, got {name!r}")
        default = SPECTRA[name].condition
        if not colon:
            return cls(name, default)
        if default is None:
            raise ValueError(f"the spectrum {name!r} takes no condition number, got {text!r}")
        try:
            condition = float(number)
        except ValueError:
            condition = float("nan")
        if not 1.0 <= condition < float("inf"):
            raise ValueError(
                f"a condition number must be a number of at least 1, as in {name}:1e4, got {text!r}"
            )
        return cls(name, condition)

    def sigma(self, count: int) -> Tensor | None:
        """The singular values in float64, or None where the entries are random."""
        values = SPECTRA[self.name].sigma
        return None if values is None else values(count, self.condition or 1.0)

    def __str__(self) -> str:
        return self.name if self.condition is None else f"{self.name}:{self.condition:g}"


@dataclass(frozen=True)
class Case:
    """One stack that every candidate is measured on."""

    dtype: str
    shape: Shape
    spectrum: Spectrum

    def matrix(self, seed: int) -> Tensor:
        """The stack, made in double precision from the seed alone and then rounded."""
        generator = torch.Generator().manual_seed(seed)
        dtype = DTYPES[self.dtype]
        wide = torch.complex128 if dtype.is_complex else torch.float64
        size = self.shape.size
        count = min(self.shape.rows, self.shape.columns)
        sigma = self.spectrum.sigma(count)
        if sigma is None:
            return torch.randn(size, generator=generator, dtype=wide).to(dtype)
        left, right = (
            torch.linalg.qr(
                torch.randn((*size[:-2], side, count), generator=generator, dtype=wide)
            )[0]
            for side in size[-2:]
        )
        matrix: Tensor = (left * sigma) @ right.mH
        return matrix.to(dtype)

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape} {self.spectrum}"
