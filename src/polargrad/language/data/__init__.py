"""Data of any size for language models: tokenizers, token shards, and a fixed order of windows."""

from polargrad.language.data.batches import TrainingBatches, evaluation_batches
from polargrad.language.data.byte_tokens import ByteTokenizer
from polargrad.language.data.hugging_face import HuggingFace
from polargrad.language.data.opening import open_data, source_of
from polargrad.language.data.order import Permutation
from polargrad.language.data.record_files import RecordFiles
from polargrad.language.data.shard_writer import ShardWriter
from polargrad.language.data.shards import Shard, open_shard, write_shard
from polargrad.language.data.sources import Document, Source
from polargrad.language.data.text_files import TextFiles
from polargrad.language.data.token_data import TokenData, open_shards
from polargrad.language.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from polargrad.language.data.tokenizer_cache import cached_tokenizer
from polargrad.language.data.tokenizing import tokenized
from polargrad.language.data.tokens import Tokens

__all__ = [
    "ByteTokenizer",
    "Document",
    "HuggingFace",
    "Permutation",
    "RecordFiles",
    "Shard",
    "ShardWriter",
    "Source",
    "TextFiles",
    "TokenData",
    "Tokenizer",
    "Tokens",
    "TrainingBatches",
    "cached_tokenizer",
    "evaluation_batches",
    "load_tokenizer",
    "open_data",
    "open_shard",
    "open_shards",
    "source_of",
    "tokenized",
    "train_tokenizer",
    "write_shard",
]
