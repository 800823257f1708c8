"""The GPT-2 sized models of modded-nanoGPT, as data: value embeddings, skips, ReLU²."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polargrad.language.models.preset import ModelPreset, require_heads, require_sizes


@dataclass(frozen=True)
class ValueGPTPreset(ModelPreset):
    """The sizes of a transformer with value embeddings, and of the batches it is trained on.

    The model is :class:`~polargrad.language.models.value_gpt_module.ValueGPT`; its equations stand
    there. The paper trains two of them, 275,742,772 and 454,496,336 parameters large.

    Args:
        name: what the preset is called.
        vocabulary: rows of the embedding and of each value embedding.
        outputs: rows of the head, at least ``vocabulary``: it may be padded to a size that
            hardware likes, and the rows beyond the vocabulary only ever learn to be unlikely.
        layers: number of blocks.
        width: size of the hidden state, an even multiple of ``heads``.
        feed_forward: size inside the feed-forward block.
        heads: number of attention heads.
        value_embeddings: how many there are; the first so many layers use them in order, and the
            last so many again.
        layer_without_attention: the one layer, counted from 0, that has a feed-forward part alone;
            a layer without a value embedding.
        scalars_for_all: give every layer two scalars of its values and one of a skip, whether or
            not it has attention and takes a skip, as the larger model has them; those without a
            use are parameters whose gradient is zero.
        context: tokens in a training window.
        batch: windows in a training batch.
        rotary_base: base of the rotary frequencies.

    Raises:
        ValueError: if a size is less than 1, the heads do not share the width, the head is smaller
            than the vocabulary, or the layers are too few.

    Example:
        >>> preset = ValueGPTPreset(
        ...     "mine", vocabulary=50, outputs=64, layers=4, width=16, feed_forward=32, heads=2,
        ...     value_embeddings=1, layer_without_attention=2, scalars_for_all=False,
        ...     context=8, batch=1,
        ... )  # fmt: skip
        >>> preset.attention_width
        48

    Source: Lau, Long and Su, *PolarGrad* (2025), the GPT-2 experiments on FineWeb; the models are
    those of the repository KellerJordan/modded-nanogpt in the spring of 2025.
    """

    name: str
    vocabulary: int
    outputs: int
    layers: int
    width: int
    feed_forward: int
    heads: int
    value_embeddings: int
    layer_without_attention: int
    scalars_for_all: bool
    context: int
    batch: int
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        require_sizes(self, "vocabulary", "layers", "width", "feed_forward", "heads")
        require_sizes(self, "value_embeddings", "context", "batch")
        require_heads(self.width, self.heads)
        if self.outputs < self.vocabulary:
            raise ValueError(
                f"outputs must be at least vocabulary={self.vocabulary}, got {self.outputs}"
            )
        first, end = self.value_embeddings, self.layers - self.value_embeddings
        if not first <= self.layer_without_attention < end:
            raise ValueError(
                f"layer_without_attention must be at least {first} and less than {end}, between "
                f"the layers with value embeddings, got {self.layer_without_attention}"
            )

    @property
    def attention_width(self) -> int:
        """Every layer but one has attention of the full width."""
        return (self.layers - 1) * self.width

    def module(self) -> torch.nn.Module:
        """Return the model, a module of our own."""
        from polargrad.language.models.value_gpt_module import ValueGPT

        return ValueGPT(self)
