"""The parameter shapes of four models, as tables: no model is built to time a step of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SCOPES = ("matrices", "vectors", "all")


@dataclass(frozen=True)
class Block:
    """Parameters that a model has ``repeats`` times over.

    Args:
        matrices: (rows, columns) of what takes the matrix rule.
        vectors: shapes of what AdamW steps: vectors, embeddings, heads.
        repeats: how many such blocks there are.
    """

    matrices: tuple[tuple[int, int], ...]
    vectors: tuple[tuple[int, ...], ...]
    repeats: int = 1


@dataclass(frozen=True)
class ModelShapes:
    """All trainable parameters of a model, in blocks."""

    name: str
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(
            block.repeats * (_total(block.matrices) + _total(block.vectors))
            for block in self.blocks
        )


@dataclass(frozen=True)
class Part:
    """Parameters that are stepped together, and how often their time counts."""

    matrices: tuple[tuple[int, int], ...]
    vectors: tuple[tuple[int, ...], ...]
    times: float = 1.0


def _total(shapes: Iterable[tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes:
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


def _gpt2(width: int, layers: int, vocabulary: int, positions: int) -> tuple[Block, ...]:
    """GPT-2 with the output head tied to the embedding; each projection one matrix."""
    block = Block(
        matrices=((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)),
        vectors=((3 * width,), (width,), (4 * width,), (width,), *((width,),) * 4),
        repeats=layers,
    )
    rest = Block((), ((vocabulary, width), (positions, width), (width,), (width,)))
    return block, rest


def _qwen2(
    width: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> tuple[Block, ...]:
    """Qwen2 with tied embeddings: grouped queries, biases on q, k and v, a gated MLP."""
    kv = kv_heads * (width // heads)
    attention = ((width, width), (kv, width), (kv, width), (width, width))
    mlp = ((inner, width), (inner, width), (width, inner))
    block = Block(
        matrices=attention + mlp,
        vectors=((width,), (kv,), (kv,), (width,), (width,)),
        repeats=layers,
    )
    return block, Block((), ((vocabulary, width), (width,)))


def _resnet(depths: tuple[int, ...], classes: int) -> tuple[Block, ...]:
    """A ResNet of bottlenecks; a kernel (out, in, k, k) is the matrix out × (in·k·k)."""
    blocks = [Block(((64, 3 * 49),), ((64,), (64,)))]
    before = 64
    for stage, depth in enumerate(depths):
        planes = 64 * 2**stage
        wide = 4 * planes
        # The first block of a stage has a shortcut that changes the width; the others have none.
        for first, repeats in ((True, 1), (False, depth - 1)):
            matrices = [(planes, before if first else wide), (planes, 9 * planes), (wide, planes)]
            widths = [planes, planes, wide]
            if first:
                matrices.append((wide, before))
                widths.append(wide)
            norms = tuple((w,) for w in widths for _ in range(2))
            blocks.append(Block(tuple(matrices), norms, repeats))
        before = wide
    head = Block((), ((classes, before), (classes,)))
    return *(block for block in blocks if block.repeats), head


def _lora(width: int, rank: int, layers: int) -> tuple[Block, ...]:
    """Adapters B A of the four projections of attention; nothing else is trained."""
    return (Block(matrices=((rank, width), (width, rank)) * 4, vectors=(), repeats=layers),)


MODELS: dict[str, ModelShapes] = {
    model.name: model
    for model in (
        # A. Radford et al., "Language models are unsupervised multitask learners" (2019).
        ModelShapes("gpt2-small", _gpt2(width=768, layers=12, vocabulary=50257, positions=1024)),
        # The configuration of Qwen/Qwen2-0.5B; A. Yang et al., arXiv 2407.10671, table 1.
        ModelShapes(
            "qwen2-0.5b",
            _qwen2(width=896, inner=4864, layers=24, heads=14, kv_heads=2, vocabulary=151936),
        ),
        # K. He et al., arXiv 1512.03385, table 1.
        ModelShapes("resnet-50", _resnet(depths=(3, 4, 6, 3), classes=1000)),
        # E. Hu et al., arXiv 2106.09685, on the attention of a model of GPT-2 small's width.
        ModelShapes("lora-rank-16", _lora(width=768, rank=16, layers=12)),
    )
}


def parts(model: ModelShapes, scope: str, layers: int | None = None) -> list[Part]:
    """Return what is stepped: all equal blocks, or ``layers`` of them that stand for all.

    What counts equally often is stepped together, so that without ``layers`` there is one part, the
    model itself. A scope that a model does not have gives no part.

    Args:
        model: the table.
        scope: "matrices", "vectors" or "all".
        layers: at most so many of equal blocks are stepped, and their time multiplied.

    Example:
        >>> model = ModelShapes("toy", (Block(((4, 2),), ((4,),), 6), Block((), ((9, 2),))))
        >>> parts(model, "all", 2)
        [Part(matrices=((4, 2), (4, 2)), vectors=((4,), (4,)), times=3.0), \
Part(matrices=(), vectors=((9, 2),), times=1.0)]
    """
    gathered: dict[float, tuple[list[tuple[int, int]], list[tuple[int, ...]]]] = {}
    for block in model.blocks:
        stepped = block.repeats if layers is None else min(layers, block.repeats)
        matrices, vectors = gathered.setdefault(block.repeats / stepped, ([], []))
        matrices.extend(block.matrices * stepped if scope != "vectors" else ())
        vectors.extend(block.vectors * stepped if scope != "matrices" else ())
    return [
        Part(tuple(matrices), tuple(vectors), times)
        for times, (matrices, vectors) in gathered.items()
        if matrices or vectors
    ]


def one_a_shape(model: ModelShapes, scope: str) -> list[Part]:
    """Return one matrix of each shape, counted as often as the model has it, and all vectors.

    For an optimizer that steps one matrix after the other, and is too slow to step all.

    Example:
        >>> model = ModelShapes("toy", (Block(((4, 2), (4, 2), (2, 4)), (), 6),))
        >>> [(part.matrices, part.times) for part in one_a_shape(model, "matrices")]
        [(((4, 2),), 12.0), (((2, 4),), 6.0)]
    """
    counts: dict[tuple[int, int], int] = {}
    vectors: list[tuple[int, ...]] = []
    for block in model.blocks:
        for shape in block.matrices:
            counts[shape] = counts.get(shape, 0) + block.repeats
        vectors.extend(block.vectors * block.repeats)
    found = [Part((shape,), (), float(count)) for shape, count in counts.items()]
    found = [] if scope == "vectors" else found
    if scope != "matrices" and vectors:
        found.append(Part((), tuple(vectors)))
    return found
