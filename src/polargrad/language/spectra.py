"""Spectra in training: how anisotropic gradients and momenta are, and how large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.geometry.anisotropy import condition_number
from polargrad.language.layout import whole
from polargrad.linalg import nuclear_norm
from polargrad.optim.routing.roles import NO_MATRIX, TABLES, assign
from polargrad.optim.routing.views import regions

# What an optimizer calls its momentum: torch's AdamW and ours.
MOMENTA = ("exp_avg", "momentum_buffer")
GRADIENT, MOMENTUM = "gradient", "momentum"


class Spectra:
    r"""Looks at the matrices of a model after a step: :math:`\kappa_2` and :math:`\|\cdot\|_*`.

    Of embeddings and head it looks at the gradients, of all other matrices at gradients and
    momenta; of a fused or stacked parameter, at each of its logical matrices.

    Args:
        model: the model.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> model(torch.arange(8)).square().sum().backward()
        >>> for record in Spectra(model).matrices({}):
        ...     print(record["parameter"], record["role"], sorted(record["gradient"]))
        0.weight embedding ['condition_number', 'nuclear_norm']
        1.weight head ['condition_number', 'nuclear_norm']
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._assignments = [a for a in assign(model) if a.role not in NO_MATRIX]

    def matrices(
        self, state: Mapping[Any, Mapping[str, Any]], *, measure: bool = True
    ) -> list[dict[str, Any]]:
        """Return a record for each logical matrix that has a gradient, as plain data.

        Each has ``parameter``, ``matrix`` (its number in the parameter) and ``role``, then for
        ``gradient`` and, where there is one, ``momentum`` a mapping of ``condition_number`` and
        ``nuclear_norm`` (:func:`polargrad.geometry.anisotropy.condition_number`,
        :func:`polargrad.linalg.nuclear_norm`). The gradient is that which the optimizer was given.

        Args:
            state: of the optimizer, by parameter.
            measure: whether to return anything. Of parameters that processes hold parts of, all of
                them take part, and one is enough to measure.
        """
        records = []
        for a in self._assignments:
            if a.parameter.grad is None:
                continue
            found = {GRADIENT: a.parameter.grad}
            buffers = state.get(a.parameter, {})
            momentum = next((buffers[name] for name in MOMENTA if name in buffers), None)
            if a.role not in TABLES and momentum is not None:
                found[MOMENTUM] = momentum
            found = {what: whole(tensor) for what, tensor in found.items()}
            if not measure:
                continue
            taken = {what: regions(a.view, tensor) for what, tensor in found.items()}
            records += [
                {
                    "parameter": a.name,
                    "matrix": number,
                    "role": a.role,
                    **{what: _measured(cut[number].matrix()) for what, cut in taken.items()},
                }
                for number in range(len(taken[GRADIENT]))
            ]
        return records


def _measured(matrix: Tensor) -> dict[str, float]:
    """Condition number and nuclear norm of one matrix."""
    return {
        "condition_number": float(condition_number(matrix)),
        "nuclear_norm": float(nuclear_norm(matrix.detach()).value),
    }
