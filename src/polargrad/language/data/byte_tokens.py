"""Bytes as tokens, for models whose vocabulary is the byte: nothing is trained, nothing is lost."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from polargrad.language.data.tokenizer import Tokenizer

BYTES = 256


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """The tokenizer whose tokens are the bytes of the text in UTF-8; it separates no documents.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("é!"), tokenizer.decode([195, 169, 33])
        ([195, 169, 33], 'é!')
    """

    backend: Any = None
    separator: int | None = None

    @property
    def size(self) -> int:
        """One more than the largest byte."""
        return BYTES

    @cached_property
    def digest(self) -> str:
        """SHA-256 that no tokenizer of the library has."""
        return hashlib.sha256(b"the bytes of UTF-8").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode("utf-8"))

    def encode_many(self, texts: Sequence[str]) -> Iterator[array[int]]:
        """Yield the bytes of each text as shards keep them."""
        for text in texts:
            content = text.encode("utf-8")
            # Little-endian, as a shard is: the byte, then a zero.
            wide = bytearray(self.layout.token_bytes * len(content))
            wide[:: self.layout.token_bytes] = content
            yield array(self.layout.code, bytes(wide))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of these bytes; what is not UTF-8, as where a text was cut, is marked."""
        return bytes(tokens).decode("utf-8", "replace")
