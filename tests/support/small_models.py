"""Small models of every kind, in plain torch and from transformers."""

import warnings

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


def mixtral(layers=1):
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
            num_experts_per_tok=2,
        )
    )


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=5,
        )
    )


def resnet():
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
        )
    )


def lora():
    """Adapters in attention and on the embedding, and a copy of the head that is trained whole."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj", "embed_tokens"], modules_to_save=["lm_head"]
    )
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 by an old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(qwen2(), config)


def encoder(layers=1):
    """torch's own encoder, with query, key and value in one parameter."""
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    return nn.ModuleDict(
        {
            "tokens": nn.Embedding(20, 8),
            "encoder": nn.TransformerEncoder(layer, layers, enable_nested_tensor=False),
            "head": nn.Linear(8, 3),
        }
    )


class Convolutions(nn.Module):
    """Convolutions of one and three dimensions, and (C, 1, 1) scales."""

    def __init__(self):
        super().__init__()
        self.sound = nn.Conv1d(2, 4, 3)
        self.volume = nn.Conv3d(4, 6, 2)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.places = nn.Parameter(torch.zeros(1, 5, 6))
        self.temperature = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(6, 3)


class Mixture(nn.Module):
    """A mixture of experts in plain torch, its experts in stacks, as training frameworks do."""

    class Experts(nn.Module):
        def __init__(self, count, width, inner):
            super().__init__()
            self.first = nn.Parameter(torch.randn(count, width, inner))
            self.second = nn.Parameter(torch.randn(count, inner, width))
            self.first_bias = nn.Parameter(torch.zeros(count, inner))

    class Layer(nn.Module):
        def __init__(self, count, width, inner):
            super().__init__()
            self.choose = nn.Linear(width, count, bias=False)
            self.experts = Mixture.Experts(count, width, inner)

    def __init__(self, count=3, width=6, inner=8):
        super().__init__()
        self.tokens = nn.Embedding(10, width)
        self.layers = nn.ModuleList(Mixture.Layer(count, width, inner) for _ in range(2))
        self.head = nn.Linear(width, 10)


class ListedMixture(nn.Module):
    """A mixture of experts in plain torch, each expert a gated feed-forward part of its own."""

    class Expert(nn.Module):
        def __init__(self, width, inner):
            super().__init__()
            self.a = nn.Linear(width, inner, bias=False)
            self.b = nn.Linear(inner, width, bias=False)
            self.c = nn.Linear(width, inner, bias=False)

    class Layer(nn.Module):
        def __init__(self, count, width, inner):
            super().__init__()
            self.choose = nn.Linear(width, count, bias=False)
            self.experts = nn.ModuleList(ListedMixture.Expert(width, inner) for _ in range(count))

    def __init__(self, count=3, width=6, inner=8):
        super().__init__()
        self.layers = nn.ModuleList(ListedMixture.Layer(count, width, inner) for _ in range(2))
        self.head = nn.Linear(width, 10)
