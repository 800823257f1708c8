"""Model presets: sizes as data, and the model that `transformers` builds from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from polargrad.records import require

# Every byte is a token.
VOCABULARY = 256


@dataclass(frozen=True)
class Preset:
    """The sizes of a Qwen2-style transformer over bytes, and of the batches it is trained on.

    Attention with rotary positions, a gated feed-forward block with SiLU, RMSNorm before each of
    them, biases in the query, key and value projections alone, embedding and output head untied.

    Args:
        name: what the preset is called.
        layers: number of blocks.
        width: size of the hidden state, a multiple of ``heads``.
        feed_forward: size inside the feed-forward block.
        heads: number of attention heads.
        context: tokens in a training window.
        batch: windows in a training batch.
        initial_deviation: standard deviation of the initial matrices.
        rotary_base: base of the rotary frequencies.

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

    def __post_init__(self) -> None:
        for size in ("layers", "width", "feed_forward", "heads", "context", "batch"):
            if getattr(self, size) < 1:
                raise ValueError(f"{size} must be at least 1, got {getattr(self, size)}")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"width must be an even multiple of heads={self.heads}, got {self.width}"
            )

    def as_data(self) -> dict[str, Any]:
        """Return the preset as plain data, as settings and checkpoints keep it."""
        return asdict(self)


PRESETS = {
    preset.name: preset
    for preset in [
        Preset(name="tiny", layers=4, width=128, feed_forward=512, heads=4, context=128, batch=16),
    ]
}


def preset_of(preset: str | Preset) -> Preset:
    """Return the preset of this name; a :class:`Preset` is returned as it is.

    Raises:
        ValueError: if there is no preset of this name.

    Example:
        >>> preset_of("tiny").width
        128
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[preset]


def build_model(preset: Preset, seed: int) -> torch.nn.Module:
    """Return the preset's model in float32, its parameters drawn with ``seed``.

    The draw uses a generator state of its own: it neither depends on torch's global generator nor
    changes it. Nothing is downloaded.

    Raises:
        MissingExtraError: if transformers is not installed.
    """
    transformers = require("transformers", extra="language")
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=preset.width,
        intermediate_size=preset.feed_forward,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=preset.context,
        tie_word_embeddings=False,
        initializer_range=preset.initial_deviation,
        rope_parameters={"rope_type": "default", "rope_theta": preset.rotary_base},
        use_cache=False,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = transformers.Qwen2ForCausalLM(config)
    return model.to(torch.float32)
