"""Output heads: the linear maps from which a model's answer comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from polargrad.optim.routing.uses import from_transformers, origins, said

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm)
CHANNEL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
EVERY_CONVOLUTION = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def find_heads(model: nn.Module) -> dict[nn.Module, str]:
    """Return the output heads of a model, each with how it was recognised.

    In this order: what the model itself declares (``get_output_embeddings``, and the ``num_labels``
    of the classifiers of transformers); then, outside repeated blocks, the linear maps from the
    width of an embedding to its vocabulary; then those whose outputs no other module takes.

    Example:
        >>> find_heads(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
        {Linear(in_features=16, out_features=3, bias=True): 'its 3 outputs feed no other module'}
    """
    declared = {head for module in model.modules() for head in _declared(module)}
    if declared:
        return dict.fromkeys(declared, "the model's output embeddings")
    outside = _outside_blocks(model)
    linear = {m: path for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    classes = {count for module in model.modules() if (count := _number_of_classes(module))}
    classifiers = [m for m, p in linear.items() if p in outside and m.out_features in classes]
    if classifiers:
        return {m: f"its {m.out_features} outputs are the model's labels" for m in classifiers}
    vocabularies = {
        (m.num_embeddings, m.embedding_dim) for m in model.modules() if isinstance(m, EMBEDDINGS)
    }
    # A block may happen to have the vocabulary's width inside: only what stands outside is a head.
    to_vocabulary = [
        m
        for m, path in linear.items()
        if path in outside and (m.out_features, m.in_features) in vocabularies
    ]
    if to_vocabulary:
        return {
            m: f"its {m.out_features} outputs are an embedding's vocabulary" for m in to_vocabulary
        }
    takers = Counter(width for m in model.modules() for width in set(_input_widths(m)))
    return {
        m: f"its {m.out_features} outputs feed no other module"
        for m, path in linear.items()
        if path in outside and takers[m.out_features] == (m.in_features == m.out_features)
    }


def _declared(module: nn.Module) -> list[nn.Module]:
    """The output embeddings that a model of transformers declares, if they are a linear map.

    The model may stand inside a wrapper (DistributedDataParallel, a task of some framework), so
    every module is asked. The head may be one of peft, which holds the linear map and its copies.
    """
    getter = getattr(module, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    if isinstance(head, nn.Module) and "peft" in origins(head):
        return [m for m in head.modules() if isinstance(m, nn.Linear)]
    return [head] if isinstance(head, nn.Linear) else []


def _number_of_classes(module: nn.Module) -> int:
    """The number of labels that a classifier of transformers declares, 0 for any other module."""
    if not from_transformers(module) or "Classification" not in type(module).__name__:
        return 0
    count = said(said(module, "config"), "num_labels")
    return count if isinstance(count, int) else 0


def _outside_blocks(model: nn.Module) -> set[str]:
    """The paths of all modules that are not inside a repeated block.

    A repeated block is composite (it has children of its own) and holds no embedding: a child of a
    ModuleList, or one of several of one type, lists and dicts apart, in a Sequential or ModuleDict.
    """
    paths: set[str] = set()

    def visit(module: nn.Module, path: str) -> None:
        paths.add(path)
        blocks = _blocks(module)
        for name, child in module.named_children():
            if child not in blocks:
                visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return paths


def _blocks(module: nn.Module) -> set[nn.Module]:
    """The children of a container that are repeated blocks."""
    composite = [child for child in module.children() if _is_composite(child)]
    if isinstance(module, nn.ModuleList):
        return set(composite)
    if not isinstance(module, nn.Sequential | nn.ModuleDict):
        return set()
    composite = [c for c in composite if not isinstance(c, nn.ModuleList | nn.ModuleDict)]
    counts = Counter(type(child) for child in composite)
    return {child for child in composite if counts[type(child)] > 1}


def _is_composite(module: nn.Module) -> bool:
    """Whether a module has children, and is not a model in itself, with embeddings of its own."""
    inside = list(module.modules())[1:]
    return bool(inside) and not any(isinstance(m, EMBEDDINGS) for m in inside)


def _input_widths(module: nn.Module) -> Iterator[int]:
    """The widths that a module takes as inputs, none for a type not known here."""
    if isinstance(module, nn.Linear):
        yield module.in_features
    elif isinstance(module, nn.Bilinear):
        yield from (module.in1_features, module.in2_features)
    elif isinstance(module, EVERY_CONVOLUTION):
        yield module.in_channels
    elif isinstance(module, NORMS):
        yield module.normalized_shape[-1]
    elif isinstance(module, CHANNEL_NORMS):
        yield module.num_features
    elif isinstance(module, nn.GroupNorm):
        yield module.num_channels
    elif isinstance(module, nn.MultiheadAttention):
        yield from (module.embed_dim, module.kdim, module.vdim)
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        yield module.input_size
