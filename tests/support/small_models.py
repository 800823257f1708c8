"""Small models of every kind, in plain torch and from transformers."""

import torch
from torch import nn


class Block(nn.Module):
    """Attention with grouped keys and values, and a feed-forward part, without any norm."""

    def __init__(self, width=16, inner=64):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, width // 2)
        self.output = nn.Linear(width, width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)


class GPT(nn.Module):
    """A small language model in plain torch. Its vocabulary is as wide as its feed-forward part."""

    def __init__(self, *, tied, layers=2, vocabulary=64, width=16, head_first=False):
        super().__init__()
        if head_first:
            self.head = nn.Linear(width, vocabulary, bias=False)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        if not head_first:
            self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


class Classifier(nn.Module):
    """An encoder with as many positions as its feed-forward part is wide."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(30, 16)
        self.positions = nn.Embedding(64, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(16, 5)


class LayerScale(nn.Module):
    """A residual branch with one learned factor a channel, as an image sees it: (C, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.head = nn.Linear(8, 5)


class TwoHeads(nn.Module):
    """A policy and a value function on one trunk."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.policy = nn.Linear(16, 4)
        self.value = nn.Linear(16, 1)


def qwen2(layers=1, tie=False):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tie,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=8, **ends)
    )
