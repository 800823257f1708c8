"""A transformer whose feed-forward parts are mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polargrad.language.models.preset import ModelPreset, require_heads, require_sizes
from polargrad.records import require


@dataclass(frozen=True)
class MixturePreset(ModelPreset):
    r"""The sizes of a Mixtral-style transformer, and of the batches it is trained on.

    In each block a router picks for each token ``chosen`` of ``experts`` gated feed-forward parts:

    .. math:: y = \sum_{i \in T} p_i\, E_i(x), \qquad
              p = \operatorname{softmax}\bigl((W x)_T\bigr), \quad T = \text{the largest of } W x

    The loss that we train on has no term that balances the experts.

    Args:
        name: what the preset is called.
        vocabulary: number of tokens.
        layers: number of blocks.
        width: size of the hidden state, an even multiple of ``heads``.
        feed_forward: size inside each expert.
        heads: number of attention heads.
        experts: number of experts in a block.
        chosen: number of experts that a token passes through, at most ``experts``.
        context: tokens in a training window.
        batch: windows in a training batch.
        initial_deviation: standard deviation of the initial matrices.
        rotary_base: base of the rotary frequencies.

    Raises:
        ValueError: if a size is less than 1, the heads do not share the width, or more experts are
            chosen than there are.

    Example:
        >>> sizes = {"layers": 1, "width": 8, "feed_forward": 8, "heads": 2, "vocabulary": 256}
        >>> MixturePreset("mine", **sizes, experts=4, chosen=1, context=8, batch=1).active_experts
        0.25

    Source: A. Q. Jiang et al., *Mixtral of experts* (2024), section 2; the implementation and its
    initialisation are those of ``transformers.MixtralForCausalLM``.
    """

    name: str
    vocabulary: int
    layers: int
    width: int
    feed_forward: int
    heads: int
    experts: int
    chosen: int
    context: int
    batch: int
    initial_deviation: float = 0.02
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        require_sizes(self, "vocabulary", "layers", "width", "feed_forward", "heads", "experts")
        require_sizes(self, "chosen", "context", "batch")
        require_heads(self.width, self.heads)
        if self.chosen > self.experts:
            raise ValueError(f"chosen must be at most experts={self.experts}, got {self.chosen}")

    @property
    def attention_width(self) -> int:
        """Every layer has attention of the full width."""
        return self.layers * self.width

    @property
    def active_experts(self) -> float:
        """The share of its experts that each token passes through."""
        return self.chosen / self.experts

    def module(self) -> torch.nn.Module:
        """Return the model of ``transformers``."""
        transformers = require("transformers", extra="language")
        config = transformers.MixtralConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            num_local_experts=self.experts,
            num_experts_per_tok=self.chosen,
            max_position_embeddings=self.context,
            tie_word_embeddings=False,
            initializer_range=self.initial_deviation,
            rope_parameters={"rope_type": "default", "rope_theta": self.rotary_base},
            use_cache=False,
            dtype=torch.float32,
        )
        model: torch.nn.Module = transformers.MixtralForCausalLM(config)
        return model
