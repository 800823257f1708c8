"""The module of the GPT-2 sized models: value embeddings, a residual to the input, U-net skips."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, rms_norm, scaled_dot_product_attention

from polargrad.language.models.value_gpt import ValueGPTPreset

# Logits are kept within ± this, smoothly, as in Gemma 2.
LOGIT_CAP = 30.0
# The initial matrices are uniform, with this deviation times the root of their number of inputs.
DEVIATION = 0.5


class CausalOutput(NamedTuple):
    """What a forward returns.

    Args:
        logits: of the next token, ``(batch, tokens, outputs)``.
    """

    logits: Tensor


class SelfAttention(nn.Module):
    r"""Causal attention with rotary positions, normalised queries and keys, and mixed values.

    .. math:: v \leftarrow \mu_1 v + \mu_2 e, \qquad
              a = \operatorname{softmax}\bigl(R\hat q\,(R\hat k)^{\mathsf T}/\sqrt d\bigr)\, v

    per head of size d, with q̂ = q/rms(q) and k̂ likewise, R the rotation by position, and e the
    value embedding of the token. Query, key and value are one matrix, one above the other.

    Source: A. Henry et al., *Query-key normalization for transformers* (2020); J. Su et al.,
    *RoFormer* (2021); Z. Zhou et al., *Value residual learning* (2024).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, embedded: Tensor | None, mix: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the attention of ``x``, ``(batch, tokens, width)``.

        Args:
            x: the normalised hidden state.
            embedded: the value embeddings of the tokens, of the shape of ``x``, or None.
            mix: μ₁ and μ₂.
            rotation: of :func:`rotary_angles`.
        """
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        v = mix[0] * v if embedded is None else mix[0] * v + mix[1] * embedded
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = (rotate(rms_norm(t, (self.head_dim,)), rotation) for t in (q, k))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    r"""Two matrices with the square of ReLU between them: W₂ max(W₁x, 0)².

    Source: D. So et al., *Primer* (2021).
    """

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image of ``x``, ``(batch, tokens, width)``."""
        return self.down(relu(self.up(x)).square())  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, or none, and a feed-forward part, each of the normalised state and added to it."""

    def __init__(self, width: int, inside: int, heads: int | None) -> None:
        super().__init__()
        self.attention = None if heads is None else SelfAttention(width, heads)
        self.feed_forward = FeedForward(width, inside)

    def forward(
        self, x: Tensor, embedded: Tensor | None, mix: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the next state; the arguments are those of the attention, ``x`` not normalised."""
        if self.attention is not None:
            x = x + self.attention(normalised(x), embedded, mix, rotation)
        return x + self.feed_forward(normalised(x))  # type: ignore[no-any-return]


class ValueGPT(nn.Module):
    r"""A transformer with value embeddings, a residual to its input, and U-net skips.

    .. math::
        x_0 &= \operatorname{norm}(E\,t), \qquad z_0 = x_0 \\
        z_{i+1} &= B_i\bigl(\lambda_{i1}\,(z_i + s_i\, z_{L-i}) + \lambda_{i2}\, x_0\bigr) \\
        \text{logits} &= 30 \tanh\bigl(H \operatorname{norm}(z_L)/30\bigr)

    The term with :math:`s_i` is there in the last ⌊L/2⌋ layers alone, so that the last layer sees
    what the first gave, the last but one what the second gave, and so on. norm divides by the root
    mean square and has no parameters; nor has any matrix a bias. Blocks are those of
    :class:`Block`; the value embeddings serve the first layers and in the same order the last.

    The counts of parameters and this list are the published models'. Our choices are: attention
    over the whole window in place of block-wise sliding windows, all pairs of features rotated
    with base 10,000, attention divided by the root of the head's size, the soft cap of the logits,
    and the initialisation: matrices uniform with deviation ½/√inputs, zero for the head and for
    the last matrix of each part, embeddings standard normal, λ = (1, 0), μ = (½, ½), s = 1.

    Args:
        preset: the sizes.

    Example:
        >>> preset = ValueGPTPreset(
        ...     "mine", vocabulary=50, outputs=64, layers=4, width=16, feed_forward=32, heads=2,
        ...     value_embeddings=1, layer_without_attention=2, scalars_for_all=False,
        ...     context=8, batch=1,
        ... )  # fmt: skip
        >>> ValueGPT(preset)(input_ids=torch.zeros(2, 8, dtype=torch.int64)).logits.shape
        torch.Size([2, 8, 64])

    Source: as :class:`ValueGPTPreset`; the cap: Gemma team, *Gemma 2* (2024), section 2.
    """

    def __init__(self, preset: ValueGPTPreset) -> None:
        super().__init__()
        layers, width = preset.layers, preset.width
        self.head_dim, self.rotary_base = width // preset.heads, preset.rotary_base
        self.embedding = nn.Embedding(preset.vocabulary, width)
        self.value_embeddings = nn.ModuleList(
            nn.Embedding(preset.vocabulary, width) for _ in range(preset.value_embeddings)
        )
        silent = preset.layer_without_attention
        self.blocks = nn.ModuleList(
            Block(width, preset.feed_forward, None if i == silent else preset.heads)
            for i in range(layers)
        )
        self.head = nn.Linear(width, preset.outputs, bias=False)
        self.skips = layers // 2
        # One-dimensional: a table of scalars is no matrix to an optimizer.
        self.residual_mix = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(layers))
        spread = preset.scalars_for_all
        self.value_mix = nn.Parameter(torch.full((2 * (layers if spread else layers - 1),), 0.5))
        self.skip_weights = nn.Parameter(torch.ones(layers if spread else self.skips))
        # Which pair of value_mix is a layer's; the silent layer has none of its own to use.
        self.mix_of_layer = [i if spread else i - (i > silent) for i in range(layers)]
        self._initialise()

    def _initialise(self) -> None:
        """Draw the matrices; those that end a part, and the head, are zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = DEVIATION * math.sqrt(3 / module.in_features)
                nn.init.uniform_(module.weight, -bound, bound)
        for module in self.modules():
            if isinstance(module, SelfAttention):
                nn.init.zeros_(module.out_proj.weight)
            elif isinstance(module, FeedForward):
                nn.init.zeros_(module.down.weight)
        nn.init.zeros_(self.head.weight)

    def get_output_embeddings(self) -> nn.Linear:
        """The head, under the name by which models of transformers declare theirs."""
        return self.head

    def forward(self, input_ids: Tensor) -> CausalOutput:
        """Return the logits of the token after each of ``input_ids``, ``(batch, tokens)``.

        Raises:
            ValueError: if ``input_ids`` has not two dimensions.
        """
        if input_ids.ndim != 2:
            raise ValueError(
                f"input_ids must be of shape (batch, tokens), got {tuple(input_ids.shape)}"
            )
        start = x = normalised(self.embedding(input_ids))
        embedded = self._values(input_ids)
        rotation = rotary_angles(input_ids.shape[1], self.head_dim, self.rotary_base, x)
        residual, value = self.residual_mix.view(-1, 2), self.value_mix.view(-1, 2)
        layers = len(self.blocks)
        given: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i >= layers - self.skips:
                x = x + self.skip_weights[i - layers] * given[layers - 1 - i]
            x = residual[i, 0] * x + residual[i, 1] * start
            x = block(x, embedded[i], value[self.mix_of_layer[i]], rotation)
            given.append(x)
        logits = self.head(normalised(x))
        return CausalOutput(LOGIT_CAP * torch.tanh(logits / LOGIT_CAP))

    def _values(self, input_ids: Tensor) -> list[Tensor | None]:
        """The value embeddings of the tokens for each layer, None where it has none."""
        tables = [table(input_ids) for table in self.value_embeddings]
        return [*tables, *[None] * (len(self.blocks) - 2 * len(tables)), *tables]


def normalised(x: Tensor) -> Tensor:
    """Return ``x`` with its last dimension divided by its root mean square."""
    return rms_norm(x, (x.shape[-1],))


def rotary_angles(tokens: int, size: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return cosines and sines of the angles :math:`t\, b^{-2j/d}`, ``(tokens, size / 2)`` each.

    Args:
        tokens: number of positions t, from 0.
        size: size d of a head.
        base: b.
        like: a tensor of the device and the type wanted.

    Source: J. Su et al., *RoFormer* (2021), section 3.2.
    """
    # In float32 whatever is wanted: half types count positions exactly to 256 or 2048 alone.
    exponents = torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size
    places = torch.arange(tokens, device=like.device, dtype=torch.float32)
    angles = places[:, None] * base**-exponents
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``x``, ``(..., tokens, size)``, with features j and j + size/2 turned by angle j."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
