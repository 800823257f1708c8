"""Output heads: the linear maps from which a model's answer comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

NORMS = (nn.LayerNorm, nn.RMSNorm)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_heads(model: nn.Module) -> dict[nn.Module, str]:
    """Return the output heads of a model, each with how it was recognised.

    In this order: what the model itself declares (``get_output_embeddings`` of transformers); the
    linear maps from the width of an embedding to its vocabulary; linear maps outside repeated
    blocks whose outputs no other module of the model takes as inputs.

    Example:
        >>> find_heads(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
        {Linear(in_features=16, out_features=3, bias=True): 'its 3 outputs feed no other module'}
    """
    declared = _declared(model)
    if declared is not None:
        return {declared: "the model's output embeddings"}
    vocabularies = {
        (m.num_embeddings, m.embedding_dim)
        for m in model.modules()
        if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    outside = _outside_blocks(model)
    linear = {m: path for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    to_vocabulary = [m for m in linear if (m.out_features, m.in_features) in vocabularies]
    # A block may happen to have the vocabulary's width inside: what stands outside is the head.
    chosen = [m for m in to_vocabulary if linear[m] in outside] or to_vocabulary
    if chosen:
        return {m: f"its {m.out_features} outputs are an embedding's vocabulary" for m in chosen}
    taken = set(_input_widths(model))
    return {
        m: f"its {m.out_features} outputs feed no other module"
        for m, path in linear.items()
        if path in outside and m.out_features not in taken
    }


def _declared(model: nn.Module) -> nn.Module | None:
    """The output embeddings that a model of transformers declares, if they are a linear map."""
    getter = getattr(model, "get_output_embeddings", None)
    module = getter() if callable(getter) else None
    return module if isinstance(module, nn.Linear) else None


def _outside_blocks(model: nn.Module) -> set[str]:
    """The paths of all modules that are not inside a repeated block.

    A repeated block is a child of a ModuleList or ModuleDict, or one of several composite children
    of one type in a Sequential.
    """
    paths: set[str] = set()

    def visit(module: nn.Module, path: str) -> None:
        paths.add(path)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            return
        repeated = _repeated_types(module) if isinstance(module, nn.Sequential) else {}
        for name, child in module.named_children():
            if repeated.get(type(child), 0) < 2:
                visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return paths


def _repeated_types(module: nn.Module) -> Mapping[type[nn.Module], int]:
    """How many composite children (with children of their own) there are of each type."""
    counts: dict[type[nn.Module], int] = {}
    for child in module.children():
        if next(child.children(), None) is not None:
            counts[type(child)] = counts.get(type(child), 0) + 1
    return counts


def _input_widths(model: nn.Module) -> Iterator[int]:
    """The widths that modules of the model take as inputs."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Bilinear):
            yield from (
                getattr(module, n)
                for n in module.__dict__
                if n.startswith("in") and "features" in n
            )
        elif isinstance(module, CONVOLUTIONS):
            yield module.in_channels
        elif isinstance(module, NORMS):
            yield module.normalized_shape[-1]
        elif isinstance(module, BATCH_NORMS):
            yield module.num_features
        elif isinstance(module, nn.MultiheadAttention):
            yield module.embed_dim
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            yield module.input_size
