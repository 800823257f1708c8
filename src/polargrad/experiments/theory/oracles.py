"""The polar factors, exact and inexact, that the checks of the theory put to the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.oracles import oracle_options
from polargrad.linalg import NewtonSchulz, PolarExpress, polar


@dataclass(frozen=True)
class Oracle:
    """A way to the polar factor, as an optimizer in float32 would use it."""

    name: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, G: Tensor) -> Tensor:
        """The factor Û of ``G``, computed in float32, returned in the dtype of ``G``."""
        # A run that converges for hundreds of steps leaves the range of float32, not of float64.
        scaled = G / G.abs().amax().clamp_min(torch.finfo(G.dtype).tiny)
        return polar(scaled.float(), **self.options).U.to(G.dtype)


EXACT = Oracle("exact", "exact", oracle_options("exact"))
PUBLISHED = Oracle("qdwh-2", "QDWH, 2 steps (published)", oracle_options("published"))
# The first few are those of the quick version.
ORACLES = (
    EXACT,
    PUBLISHED,
    Oracle("newton-schulz", "Newton–Schulz, 5 quintics", {"method": NewtonSchulz()}),
    Oracle("training", "tol = 0.11", oracle_options("tolerance")),
    Oracle("qdwh-1", "QDWH, 1 step", oracle_options("published", steps=1)),
    Oracle("qdwh-3", "QDWH, 3 steps", oracle_options("published", steps=3)),
    Oracle("qdwh-5", "QDWH, 5 steps", oracle_options("published", steps=5)),
    Oracle("polar-express-3", "Polar Express, 3 steps", {"method": PolarExpress(steps=3)}),
)
