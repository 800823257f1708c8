"""How many floating-point operations a token costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polargrad.language.models import ModelPreset
from polargrad.optim.routing.roles import assign

# Looked up, or used entry by entry: no token is multiplied by all of them.
NOT_MULTIPLIED = ("embedding", "vector", "scalar")
EXPERTS = ("stacked experts", "expert gate/up", "expert down")


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for each token of a full window.

    Args:
        parameters: N, how many parameters a token is multiplied by.
        attention: those of the scores and of the weighted sums in a forward, 0 where unknown.
    """

    parameters: int
    attention: int

    @property
    def forward(self) -> int:
        """2 N and attention."""
        return 2 * self.parameters + self.attention

    @property
    def training(self) -> int:
        """Three forwards: a backward multiplies twice where the forward does once."""
        return 3 * self.forward


def flops_per_token(preset: ModelPreset, model: torch.nn.Module) -> Flops:
    r"""Return the operations for a token: of a forward, and of a forward with its backward.

    .. math:: F = 2N + 4\,T\,A, \qquad F_{\text{training}} = 3F = 6N + 12\,T\,A

    N counts the entries of all matrices that a token is multiplied by: the head is one, embedding
    tables are not, and of stacked experts the chosen share counts. T is the context and A the
    number of heads times their size, summed over the layers with attention: 2TA multiplications
    and additions for the scores, as many for the weighted sum, over the whole window, as if
    nothing were saved by what a causal mask hides. Entry-wise work is left out.

    Args:
        preset: the sizes, of which ``context``, ``attention_width`` and ``active_experts`` count.
        model: the preset's model; its numbers are not read, so it may be on the meta device.

    Example:
        >>> from polargrad.language.presets import TINY, meta_model
        >>> flops_per_token(TINY, meta_model(TINY)).training
        7274496

    Source: A. Chowdhery et al., *PaLM* (2022), appendix B, with the embedding tables left out as
    in J. Kaplan et al., *Scaling laws for neural language models* (2020), section 2.1.
    """
    parameters = 0.0
    for each in assign(model):
        if each.role not in NOT_MULTIPLIED:
            share = preset.active_experts if each.role in EXPERTS else 1.0
            parameters += share * each.parameter.numel()
    attention = 4 * preset.context * (preset.attention_width or 0)
    return Flops(round(parameters), attention)
