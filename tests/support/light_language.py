"""Language models that need no transformers: a process that trains one starts in little time."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

from polargrad.language.models import ModelPreset


class LightModel(nn.Module):
    """Guesses a byte from the one before it, through one hidden layer, with dropout."""

    def __init__(self, width, dropout):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 256)

    def forward(self, input_ids):
        hidden = torch.tanh(self.hidden(self.embedding(input_ids)))
        return SimpleNamespace(logits=self.head(self.dropout(hidden)))


@dataclass(frozen=True)
class LightPreset(ModelPreset):
    """The model above and its batches."""

    name: str = "light"
    vocabulary: int = 256
    context: int = 16
    batch: int = 4
    width: int = 16
    dropout: float = 0.0

    def module(self):
        return LightModel(self.width, self.dropout)

    @property
    def attention_width(self):
        return 0


class Logits(NamedTuple):
    """What fully_shard finds tensors in, unlike a namespace."""

    logits: torch.Tensor


class Block(nn.Module):
    """A feed-forward part of a transformer, with dropout."""

    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.down(torch.tanh(self.up(self.norm(x)))))


class BlockModel(nn.Module):
    """Guesses a byte from the one before it, through blocks; tensor parallelism may cut it."""

    def __init__(self, width, dropout):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.tp_plan = {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"}
        self.tp_plan |= {"embedding": "embedding_rowwise", "head": "colwise_gather_output"}
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, input_ids):
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return Logits(self.head(x))


@dataclass(frozen=True)
class BlockPreset(LightPreset):
    """The model above: of an odd half width, which four processes have uneven shards of."""

    name: str = "blocks"
    width: int = 18

    def module(self):
        return BlockModel(self.width, self.dropout)
