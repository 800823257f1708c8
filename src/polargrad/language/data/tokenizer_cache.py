"""Tokenizers that were trained before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.corpus import VALIDATION_SHARE, is_held_out
from polargrad.language.data.cache import alone, cache_folder, key_of
from polargrad.language.data.sources import Source
from polargrad.language.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from polargrad.records import require, write_atomically

# Raised when the same text would give another tokenizer than before.
FORMAT = 1
# Characters to train on: the words of more text change little, and take memory.
ENOUGH = 2**26


def cached_tokenizer(
    source: Source,
    *,
    vocabulary: int,
    held_out: float = VALIDATION_SHARE,
    cache: Path | None = None,
) -> Tokenizer:
    """Return the byte-level BPE of a source, trained now or taken from the cache.

    It is trained on the first 2²⁶ characters of the documents that are not held out, of a single
    document on its first part. It is found again by the text's digest, the vocabulary's size, the
    share held out and the versions of this function and of tokenizers; a damaged entry is made
    anew.

    Args:
        source: the documents.
        vocabulary: from 257 to 65536.
        held_out: the share of the documents, or of the only one, that is not trained on.
        cache: the folder of the cache; None takes the user's.

    Raises:
        ValueError: if ``vocabulary`` is not allowed.
        DataError: if there is no text, or the cache cannot be written.
    """
    version = require("tokenizers", extra="language").__version__
    folder = cache_folder(cache, "tokenizers")
    key = key_of(FORMAT, version, source.digest(), vocabulary, held_out, ENOUGH)
    file, check = folder / f"{key}.json", folder / f"{key}.sha256"
    with alone(file):
        if not _is_whole(file, check):
            tokenizer = train_tokenizer(_texts(source, held_out), vocabulary=vocabulary)
            content = tokenizer.backend.to_str(pretty=True).encode()
            try:
                write_atomically(file, lambda out: out.write(content))
                write_atomically(check, lambda out: out.write(_sha256(content)))
            except OSError as error:
                raise DataError(
                    f"cannot write the tokenizer, {len(content)} bytes, to {str(folder)!r}: "
                    f"{error.strerror}"
                ) from error
        return load_tokenizer(file)


def _is_whole(file: Path, check: Path) -> bool:
    """Whether the file has the digest that was written when it was."""
    try:
        return _sha256(file.read_bytes()) == check.read_bytes()
    except FileNotFoundError:
        return False


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _texts(source: Source, held_out: float) -> Iterator[str]:
    """The texts to train on."""
    enough = ENOUGH
    if not source.divisible and source.size is not None:
        enough = min(enough, max(1, round((1 - held_out) * source.size)))
    read = 0
    for document in source.documents():
        if source.divisible and is_held_out(document.name, held_out):
            continue
        for text in document.pieces:
            yield text
            read += len(text)
            if read >= enough:
                return
