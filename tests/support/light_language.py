"""A language model that needs no transformers: a process that trains it starts in little time."""

from dataclasses import dataclass
from types import SimpleNamespace

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
