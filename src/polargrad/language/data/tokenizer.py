"""Tokenizers: byte-level BPE, trained here, or the user's tokenizer.json."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from polargrad.errors import DataError
from polargrad.language.data.shards import NARROW, Layout, layout_of
from polargrad.records import require

SEPARATOR = "<|endoftext|>"
# The bytes and the separator; what 16 bits tell apart.
SMALLEST_VOCABULARY = 257
LARGEST_VOCABULARY = NARROW.vocabulary
# What other tokenizers call the token between documents.
KNOWN_SEPARATORS = (SEPARATOR, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>", "<|im_end|>")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the library ``tokenizers``, with what a language model needs of it.

    Special tokens that stand in a text are text: only this package puts the separator anywhere.

    Args:
        backend: a ``tokenizers.Tokenizer``.
        separator: the token that begins a document; None if the vocabulary has none.
    """

    backend: Any
    separator: int | None

    @property
    def size(self) -> int:
        """One more than the largest token, which is what a model's vocabulary has to hold."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def layout(self) -> Layout:
        """How shards keep its tokens."""
        return layout_of(self.size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer: tokens of two tokenizers are never taken for each other."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without a separator."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> Iterator[array[int]]:
        """Yield the tokens of each text as its shards keep them, with all threads at once."""
        for one in self.backend.encode_batch_fast(list(texts), add_special_tokens=False):
            yield array(self.layout.code, one.ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of these tokens, separators and all."""
        return str(self.backend.decode(list(tokens), skip_special_tokens=False))

    def require_fit(self, vocabulary: int) -> None:
        """Raise unless a model with this vocabulary has a row for each token.

        Raises:
            DataError: if it has fewer; more are allowed, as vocabularies are padded.
        """
        if self.size > vocabulary:
            raise DataError(
                f"the tokenizer has {self.size} tokens, the model's vocabulary {vocabulary}: "
                f"give a model of at least {self.size}, or another tokenizer"
            )


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE of at most ``vocabulary`` tokens, trained on these texts.

    Token 0 is the separator ``<|endoftext|>``, the next 256 are the bytes; so every text has
    tokens and they give it back to the byte. The pattern that cuts a text into words is that of
    GPT-2. The result depends on the texts alone. A short text may not have enough pairs of tokens
    that occur twice: then there are fewer tokens.

    Args:
        texts: the texts, read once.
        vocabulary: from 257 to 65536, the most that 16 bits tell apart.

    Raises:
        ValueError: if ``vocabulary`` is not allowed.
        DataError: if the texts are empty.
        MissingExtraError: if tokenizers is not installed.

    Example:
        >>> tokenizer = train_tokenizer(["the cat and the hat"] * 2, vocabulary=262)
        >>> tokenizer.decode(tokenizer.encode("the bat, äöü"))
        'the bat, äöü'

    Source: R. Sennrich, B. Haddow and A. Birch, *Neural machine translation of rare words with
    subword units* (2016); A. Radford et al., *Language models are unsupervised multitask learners*
    (2019), section 2.2, for bytes as the alphabet.
    """
    if not SMALLEST_VOCABULARY <= vocabulary <= LARGEST_VOCABULARY:
        raise ValueError(
            f"vocabulary must be from {SMALLEST_VOCABULARY} to {LARGEST_VOCABULARY}, "
            f"got {vocabulary}"
        )
    library = require("tokenizers", extra="language")
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += len(text)
            yield text

    backend.train_from_iterator(counted(), trainer=trainer)
    if not read:
        raise DataError("there is no text to train a tokenizer on: give text")
    return _tokenizer(backend, SEPARATOR)


def load_tokenizer(path: Path, *, separator: str | None = None) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json``, or of a folder that has one.

    Truncation and padding that the file asks for are turned off.

    Args:
        path: the file or folder.
        separator: the token that begins a document; None takes the first of
            :data:`KNOWN_SEPARATORS` that the vocabulary has, or none.

    Raises:
        DataError: if there is no tokenizer, or it has no such token.
        MissingExtraError: if tokenizers is not installed.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    library = require("tokenizers", extra="language")
    if not file.is_file():
        raise DataError(f"tokenizer is {str(path)!r}, where there is no tokenizer.json")
    try:
        backend = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise DataError(f"tokenizer is {str(path)!r}, which is no tokenizer: {error}") from None
    return _tokenizer(backend, separator)


def _tokenizer(backend: Any, separator: str | None) -> Tokenizer:
    """Wrap a backend, with the token of this name as separator, or the one it is known to have."""
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    names = KNOWN_SEPARATORS if separator is None else (separator,)
    found = [token for token in map(backend.token_to_id, names) if token is not None]
    if separator is not None and not found:
        raise DataError(f"separator is {separator!r}, which the tokenizer does not have")
    return Tokenizer(backend, found[0] if found else None)
