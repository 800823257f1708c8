"""Checks of the options of a geometry: numbers, counts and flags."""

from __future__ import annotations

import math

__all__ = ["check_count", "check_flag", "check_number"]


def check_number(name: str, value: object, *, below: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number in [0, below)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= value < below:
        allowed = "at least 0 and finite" if math.isinf(below) else f"in [0, {below:g})"
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_count(name: str, value: object) -> None:
    """Raise unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_flag(name: str, value: object) -> None:
    """Raise unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
