"""The dense transformer of Qwen2, over bytes or over tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from polargrad.language.models.preset import ModelPreset, require_heads, require_sizes
from polargrad.records import require

# Every byte is a token.
BYTES = 256


@dataclass(frozen=True)
class Preset(ModelPreset):
    """The sizes of a Qwen2-style transformer over bytes, and of the batches it is trained on.

    Attention with rotary positions, a gated feed-forward block with SiLU, RMSNorm before each of
    them, biases in the query, key and value projections alone, embedding and output head untied.

    Args:
        name: what the preset is called.
        layers: number of blocks.
        width: size of the hidden state, an even multiple of ``heads``.
        feed_forward: size inside the feed-forward block.
        heads: number of attention heads.
        context: tokens in a training window.
        batch: windows in a training batch.
        initial_deviation: standard deviation of the initial matrices.
        rotary_base: base of the rotary frequencies.

    Raises:
        ValueError: if a size is less than 1, or the heads do not share the width.

    Example:
        >>> Preset("mine", layers=2, width=16, feed_forward=32, heads=2, context=8, batch=4).width
        16

    Source: Qwen team, *Qwen2 technical report* (2024), section 2.2; the implementation and its
    initialisation are those of ``transformers.Qwen2ForCausalLM``.
    """

    name: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    context: int
    batch: int
    initial_deviation: float = 0.02
    rotary_base: float = 10_000.0

    # Not a field: the data of a preset over bytes, which checkpoints keep, do not hold it.
    vocabulary = BYTES

    def __post_init__(self) -> None:
        require_sizes(self, "layers", "width", "feed_forward", "heads", "context", "batch")
        require_heads(self.width, self.heads)

    @property
    def attention_width(self) -> int:
        """Every layer has attention of the full width."""
        return self.layers * self.width

    def module(self) -> torch.nn.Module:
        """Return the model of ``transformers``."""
        transformers = require("transformers", extra="language")
        config = transformers.Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=False,
            initializer_range=self.initial_deviation,
            rope_parameters={"rope_type": "default", "rope_theta": self.rotary_base},
            use_cache=False,
            dtype=torch.float32,
        )
        model: torch.nn.Module = transformers.Qwen2ForCausalLM(config)
        return model


@dataclass(frozen=True)
class TokenPreset(Preset):
    """The same transformer over the tokens of a vocabulary.

    Args:
        vocabulary: number of tokens; the others are those of :class:`Preset`.

    Raises:
        ValueError: as :class:`Preset`, or if the vocabulary is empty.

    Example:
        >>> sizes = {"layers": 1, "width": 8, "feed_forward": 8, "heads": 2}
        >>> TokenPreset("mine", **sizes, context=8, batch=1, vocabulary=1000).vocabulary
        1000
    """

    vocabulary: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "vocabulary")
