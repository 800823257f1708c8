"""What tensor parallelism cuts of a model: its own plan, as transformers writes it."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.language.models import ModelPreset
from polargrad.language.presets import meta_model

__all__ = ["cut_by", "cut_modules", "cut_up", "require_plan"]

# What the plans of transformers say of a module, and the dimension of its weight that is cut.
CUTS = {"colwise": 0, "colwise_gather_output": 0, "rowwise": 1, "embedding_rowwise": 0}
OF_EMBEDDINGS = ("embedding_rowwise",)
# The numbers of a configuration that count what attention takes apart after its maps.
HEADS = ("num_attention_heads", "num_key_value_heads")


def cut_by(model: nn.Module, name: str) -> Callable[[str], int | None]:
    """Return what says, of a parameter's name, which dimension tensor parallelism cuts; None: none.

    Args:
        model: of any device.
        name: what an error calls it.

    Raises:
        ValueError: if the model has no plan; from what is returned, for a style that is unknown.
    """
    plan: Mapping[str, str] = getattr(model, "tp_plan", None) or {}
    if not plan:
        raise ValueError(f"mesh: tp must be 1, for {name} names no plan of tensor parallelism")

    def cut(parameter: str) -> int | None:
        owner = parameter.rpartition(".")[0]
        style = _style(plan, owner)
        if style is not None and style not in CUTS:
            raise ValueError(
                f"mesh: tp must be 1, for the plan of {name} has {style!r} for {parameter}, and "
                f"{', '.join(CUTS)} alone are known"
            )
        return None if style is None else CUTS[style]

    return cut


def cut_modules(model: nn.Module, name: str, tp: int) -> dict[str, str]:
    """Return the style of each module that ``tp`` processes cut, by its name.

    One whose weight another module has too, as a head that is the embedding, is left whole.

    Args:
        model: of any device.
        name: what an error calls it.
        tp: the number of processes, which must divide what is cut.

    Raises:
        ValueError: if the model has no plan, or a plan of another kind, or sizes or heads that
            ``tp`` does not divide.

    Example:
        >>> from polargrad.language.presets import meta_model, preset_of
        >>> found = cut_modules(meta_model(preset_of("tiny")), "tiny", 2)
        >>> found["model.layers.0.mlp.down_proj"], len(found)
        ('rowwise', 30)
    """
    cut = cut_by(model, name)
    _require_heads(model, name, tp)
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    plan: Mapping[str, str] = model.tp_plan  # type: ignore[assignment]
    found = {}
    for path, module in model.named_modules():
        own = list(module.named_parameters(path, recurse=False))
        cuts = [cut(parameter) for parameter, _ in own]
        if all(each is None for each in cuts) or any(uses[id(p)] > 1 for _, p in own):
            continue
        style = _style(plan, path) or ""
        if not isinstance(module, nn.Embedding if style in OF_EMBEDDINGS else nn.Linear):
            raise ValueError(
                f"mesh: tp must be 1, for the plan of {name} has {style!r} for {path}, which is a "
                f"{type(module).__name__}"
            )
        size = module.weight.shape[CUTS[style]]
        if size % tp:
            raise ValueError(
                f"mesh: tp must divide the weight of {path}, {tuple(module.weight.shape)}, in "
                f"dimension {CUTS[style]}, as the plan of {name} has {style!r} for it, got {tp}"
            )
        found[path] = style
    return found


def require_plan(preset: ModelPreset, mesh: MeshSizes | None) -> None:
    """Raise where tensor parallelism cannot cut the model, before it is built.

    Raises:
        ValueError: as :func:`cut_modules`.
        MissingExtraError: as :func:`polargrad.language.presets.meta_model`.
    """
    if mesh is not None and mesh.tp > 1:
        cut_modules(meta_model(preset), preset.name, mesh.tp)


def cut_up(model: nn.Module, name: str, mesh: Any) -> None:
    """Cut the model up over a mesh of one dimension; its parameters become DTensors there.

    Every process has the whole model before, with the same numbers, and keeps its part of them;
    nothing is sent.

    Raises:
        ValueError: as :func:`cut_modules`.
    """
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        ParallelStyle,
        RowwiseParallel,
        parallelize_module,
    )

    styles: dict[str, Callable[[], ParallelStyle]] = {
        "colwise": ColwiseParallel,
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
        "rowwise": RowwiseParallel,
        "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
    }
    found = cut_modules(model, name, mesh.size())
    plan = {path: styles[style]() for path, style in found.items()}
    parallelize_module(model, mesh, plan, src_data_rank=None)


def _style(plan: Mapping[str, str], module: str) -> str | None:
    """What a plan says of a module, None if nothing."""
    return next((s for key, s in plan.items() if fnmatch.fnmatchcase(module, key)), None)


def _require_heads(model: nn.Module, name: str, tp: int) -> None:
    """Raise ValueError unless each process has as many heads as another."""
    config = getattr(model, "config", None)
    for key in HEADS:
        heads = getattr(config, key, None)
        if isinstance(heads, int) and heads % tp:
            raise ValueError(f"mesh: tp must divide the {key} of {name}, {heads}, got {tp}")
