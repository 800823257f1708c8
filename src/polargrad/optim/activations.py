r"""Where a spectral step is locally better: the gradient's nuclear rank beside its layer's inputs.

A layer multiplies its weight W with a matrix A of inputs, one column an example or a position. One
step's guaranteed decrease of the loss is proportional to

.. math:: \frac{\|G\|_F^2}{\|A\|_2^2} \text{ for a gradient step}, \qquad
          \frac{\|G\|_*^2}{\|A\|_F^2} \text{ for a spectral step},

so that the spectral step is ahead where :math:`\|G\|_*^2/\|G\|_F^2` exceeds the stable rank
:math:`\|A\|_F^2/\|A\|_2^2`. Source: D. Davis and D. Drusvyatskiy, arXiv 2512.04299.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from polargrad.geometry.anisotropy import nuclear_rank

__all__ = ["RankComparison", "compare_ranks", "input_stable_ranks"]

# Inputs are widened to float64 in pieces of at most so many numbers (32 MiB), or of one row.
PIECE = 2**22
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class RankComparison(NamedTuple):
    """A gradient beside the inputs of its layer.

    Attributes:
        nuclear_rank: ‖G‖²_*/‖G‖²_F of the gradient of the weight.
        stable_rank: ‖A‖²_F/‖A‖²₂ of the inputs.
    """

    nuclear_rank: float
    stable_rank: float

    @property
    def favours_spectral(self) -> bool:
        """Whether a spectral step has the larger guaranteed decrease."""
        return self.nuclear_rank > self.stable_rank


def input_stable_ranks(model: nn.Module, run: Callable[[], object]) -> dict[str, float]:
    r"""Return the stable rank of the inputs of every linear and convolution layer during ``run``.

    .. math:: \|A\|_F^2 / \|A\|_2^2 = \operatorname{tr}(AA^{\mathsf T}) /
              \lambda_{\max}(AA^{\mathsf T})

    A holds all inputs of the layer that ``run`` makes, of all its batches; those of a convolution
    are its patches, and of a grouped one the block diagonal matrix of the groups' patches. Layers
    that share a weight share A. Layers that are not called are left out, and so is
    ``nn.MultiheadAttention``, which uses its weights without calling a layer.

    Memory: :math:`AA^{\mathsf T}` in float64 for each layer, n² numbers for n inputs, whatever the
    number of batches.

    Args:
        model: holds ``nn.Linear``, ``nn.Conv1d`` to ``nn.Conv3d``, or ``Conv1D`` of transformers.
        run: calls the model, once or often. Hooks are removed however it ends.

    Returns:
        The name of each layer's weight, as in ``model.named_parameters()``, and its number: 0 where
        all inputs are zero, NaN where they are not finite.

    Raises:
        TypeError: if ``model`` is not a module.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3))
        >>> input_stable_ranks(model, lambda: model(torch.eye(3)))
        {'0.weight': 3.0}

    Source: arXiv 2512.04299.
    """
    return {name: _stable_rank(gram) for name, (_, gram) in _observe(model, run).items()}


def compare_ranks(model: nn.Module, run: Callable[[], object]) -> dict[str, RankComparison]:
    r"""Return the nuclear rank of each weight's gradient beside the stable rank of its inputs.

    The weight counts as one matrix, a convolution's as its outputs × all else. The gradient is what
    is in ``.grad`` after ``run``: set it to None before, or earlier batches are in it. A weight
    that is also used elsewhere, as a tied embedding is, has the gradient of both uses.

    Args:
        model: as in :func:`input_stable_ranks`.
        run: calls the model and ``backward()``, once or often.

    Returns:
        The name of each weight that has a gradient, and its two ranks.

    Raises:
        TypeError: if ``model`` is not a module.
        ValueError: if layers were called and none of their weights has a gradient.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3, bias=False))
        >>> ranks = compare_ranks(model, lambda: model(torch.eye(3)[:1]).sum().backward())
        >>> print(f"{ranks['0.weight'].nuclear_rank:.3f} {ranks['0.weight'].stable_rank:.3f}")
        1.000 1.000

    Source: arXiv 2512.04299.
    """
    seen = _observe(model, run)
    with_gradient = {
        name: (weight.grad, gram)
        for name, (weight, gram) in seen.items()
        if weight is not None and weight.grad is not None
    }
    if seen and not with_gradient:
        raise ValueError(
            f"run must call backward: none of {len(seen)} weights has a gradient, as {min(seen)}"
        )
    return {
        name: RankComparison(float(nuclear_rank(gradient.flatten(1))), _stable_rank(gram))
        for name, (gradient, gram) in with_gradient.items()
    }


def _observe(
    model: nn.Module, run: Callable[[], object]
) -> dict[str, tuple[nn.Parameter | None, Tensor]]:
    """Run, and return the weights by name with the Gram matrices of their inputs (groups, n, n)."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    grams: dict[nn.Module, Tensor] = {}

    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        for rows in _rows(module, x.detach()):
            wide = rows.double()
            product = wide.mT @ wide
            grams[module] = grams[module] + product if module in grams else product

    layers = {module: path for path, module in model.named_modules() if _is_layer(module)}
    hooks = []
    try:
        for module in layers:
            hooks.append(module.register_forward_pre_hook(observe, with_kwargs=True))  # noqa: PERF401
        run()
    finally:
        for hook in hooks:
            hook.remove()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[nn.Parameter | None, Tensor]] = {}
    for module, gram in grams.items():
        weight = module._parameters.get("weight")  # None under a parametrization
        name = f"{layers[module]}.weight".removeprefix(".")
        name = name if weight is None else names[id(weight)]
        found[name] = (weight, found[name][1] + gram if name in found else gram)
    return found


def _is_layer(module: nn.Module) -> bool:
    # transformers' Conv1D is a linear layer that stores its weight as (inputs, outputs).
    stored_turned = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return isinstance(module, (nn.Linear, Convolution)) or stored_turned


def _rows(module: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Yield the inputs of a layer as (groups, rows, n), in pieces of bounded size."""
    if isinstance(module, Convolution):
        yield from _patches(module, x)
        return
    flat = x.reshape(-1, x.shape[-1])
    for piece in torch.split(flat, max(1, PIECE // max(1, flat.shape[1]))):
        yield piece[None]


def _patches(module: Convolution, x: Tensor) -> Iterator[Tensor]:
    """Yield the patches that a convolution multiplies its weight with, (groups, positions, n)."""
    spatial = len(module.kernel_size)
    batch = _pad(module, x if x.ndim == spatial + 2 else x[None])
    inputs = math.prod(module.kernel_size) * module.in_channels // module.groups
    for example in batch:
        windows = example  # (channels, positions along each side, taps along each side): a view
        for side in range(spatial):
            dilation = module.dilation[side]
            span = dilation * (module.kernel_size[side] - 1) + 1
            windows = windows.unfold(1 + side, span, module.stride[side])[..., ::dilation]
        numbers = windows.numel() // max(1, windows.shape[1])  # of one line of positions
        for piece in torch.split(windows, max(1, PIECE // max(1, numbers)), dim=1):
            grouped = piece.reshape(module.groups, -1, *piece.shape[1:])
            order = (0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial))
            yield grouped.permute(order).reshape(module.groups, -1, inputs)


def _pad(module: Convolution, x: Tensor) -> Tensor:
    """The input with the padding of a convolution, (batch, channels, *sides)."""
    if module.padding == "valid":
        return x
    pads: list[int] = []
    for side in reversed(range(len(module.kernel_size))):  # functional.pad begins with the last
        if module.padding == "same":
            total = module.dilation[side] * (module.kernel_size[side] - 1)
            pads += [total // 2, total - total // 2]
        else:
            pads += [int(module.padding[side])] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(x, pads, mode=mode)


def _stable_rank(gram: Tensor) -> float:
    """Trace over largest eigenvalue of the block diagonal matrix with these blocks."""
    if not bool(torch.isfinite(gram).all()):
        return math.nan
    largest = float(torch.linalg.eigvalsh(gram)[:, -1].max())
    trace = float(gram.diagonal(dim1=-2, dim2=-1).sum())
    return trace / largest if largest > 0 else 0.0
