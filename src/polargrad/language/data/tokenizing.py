"""From documents to token shards in the cache: once, in bounded memory, whole or not at all."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polargrad.errors import DataError, RunFolderError
from polargrad.language.corpus import VALIDATION_SHARE, is_held_out
from polargrad.language.data.cache import alone, cache_folder, key_of
from polargrad.language.data.shard_writer import TOKENS_A_SHARD, ShardWriter
from polargrad.language.data.shards import Shard, open_shard
from polargrad.language.data.sources import Source
from polargrad.language.data.token_data import BY_DOCUMENT, TokenData, check_share, divided
from polargrad.language.data.tokenizer import Tokenizer
from polargrad.records import read_json, write_json

# Raised when the same text would give other tokens or files than before.
FORMAT = 1
INDEX = "index.json"
# Characters that are tokenized at a time: 16 pieces keep the threads busy, and what the tokenizer
# says of them takes 20 MB; four times as many take twice that and are no faster.
AT_A_TIME = 2**18


def tokenized(
    source: Source,
    tokenizer: Tokenizer,
    *,
    vocabulary: int,
    shortest: int = 2,
    held_out: float = VALIDATION_SHARE,
    limit: int | None = None,
    cache: Path | None = None,
    tokens_a_shard: int = TOKENS_A_SHARD,
    on_progress: Callable[[int], object] | None = None,
) -> TokenData:
    """Return the tokens of a source, which are computed once and kept as shards in the cache.

    A document begins with the tokenizer's separator, where it has one. About a share ``held_out``
    of the documents, chosen by a hash of their names, is validation; of a single document, or where
    that gives no sensible share, the last tokens are. A piece of text is in the memory at a time.
    What a killed run left is removed and computed again from the start; what was changed since it
    was written is computed anew.

    Args:
        source: the documents.
        tokenizer: the tokenizer.
        vocabulary: the size of the model's vocabulary.
        shortest: the least number of tokens that either part must have.
        held_out: the share of the documents, or tokens, to hold out.
        limit: how many tokens are enough, as of an endless stream; None takes all. The piece of
            text that reaches it is the last.
        cache: the folder of the cache; None takes the user's.
        tokens_a_shard: how many tokens a file holds.
        on_progress: is called with the number of tokens so far, now and then.

    Raises:
        DataError: if the tokenizer does not fit the vocabulary, a document cannot be read, the
            text is too short or empty, or the tokens cannot be written.
        ValueError: if an argument is not allowed.
    """
    check_share(held_out)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    tokenizer.require_fit(vocabulary)
    folder = cache_folder(cache, "tokens")
    key = key_of(
        FORMAT, source.digest(), tokenizer.digest, tokenizer.separator, held_out, limit,
        tokens_a_shard,
    )  # fmt: skip
    entry = folder / key
    with alone(entry):
        data = _kept(entry, held_out)
        if data is None:
            job = _Job(source, tokenizer, held_out, limit, tokens_a_shard, on_progress)
            job.write(entry)
            data = _kept(entry, held_out)
    if data is None:
        raise DataError(f"the tokens in {str(entry)!r} were changed while they were opened")
    data.require(shortest, source.name)
    return data


def _kept(entry: Path, held_out: float) -> TokenData | None:
    """The tokens that an entry of the cache holds; None if it is missing or damaged."""
    try:
        index = read_json(entry / INDEX)
        train, validation = (
            [_unchanged(entry, each) for each in index[side]] for side in ("train", "validation")
        )
        documents, empty, skipped = (
            int(index[name]) for name in ("documents", "empty", "skipped_files")
        )
    except (RunFolderError, DataError, KeyError, TypeError, ValueError):
        return None
    streams = divided(train, validation, held_out=held_out, split=BY_DOCUMENT)
    return TokenData(*streams, documents, empty, skipped)


def _unchanged(entry: Path, record: dict[str, Any]) -> tuple[Shard, str]:
    """The shard of a record in the index, which must have the contents that it had."""
    shard = open_shard(entry / record["file"])
    digest, _ = shard.scan()
    if digest != record["sha256"]:
        raise DataError(f"the shard {str(shard.path)!r} was changed")
    return shard, digest


@dataclass
class _Job:
    """The work of tokenizing a source, with what it has counted."""

    source: Source
    tokenizer: Tokenizer
    held_out: float
    limit: int | None
    tokens_a_shard: int
    on_progress: Callable[[int], object] | None
    documents: int = 0
    empty: int = 0
    _writers: dict[str, ShardWriter] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The number of tokens written."""
        return sum(writer.tokens for writer in self._writers.values())

    def write(self, entry: Path) -> None:
        """Make the entry of the cache, whole or not at all.

        Raises:
            DataError: as :func:`tokenized` says.
        """
        unfinished = entry.with_name(f".{entry.name}.part")
        for old in (unfinished, entry):
            shutil.rmtree(old, ignore_errors=True)
        try:
            unfinished.mkdir()
            self._fill(unfinished)
            unfinished.rename(entry)
        except OSError as error:
            raise DataError(self._not_written(entry.parent, error)) from error
        finally:
            for writer in self._writers.values():
                writer.abandon()
            shutil.rmtree(unfinished, ignore_errors=True)

    def _not_written(self, folder: Path, error: OSError) -> str:
        """What is said of a full disk."""
        size = self.source.size
        token_bytes = self.tokenizer.layout.token_bytes
        # A token is at least one byte of the text.
        need = "" if size is None else f" of at most {token_bytes * size} that are needed"
        return (
            f"cannot write tokens to {str(folder)!r}: {error.strerror} after "
            f"{token_bytes * self.tokens} bytes{need}, which were removed again: "
            "make room, or give another cache"
        )

    def _fill(self, folder: Path) -> None:
        """Write the shards and their index."""
        for side in ("train", "validation"):
            self._writers[side] = ShardWriter(
                folder, side, tokens_a_shard=self.tokens_a_shard, layout=self.tokenizer.layout
            )
        begin = [] if self.tokenizer.separator is None else [self.tokenizer.separator]
        separator = array(self.tokenizer.layout.code, begin)
        for group in _groups(self._pieces()):
            tokens = self.tokenizer.encode_many([text for _, _, text in group])
            for (side, first, _), numbers in zip(group, tokens, strict=True):
                if first:
                    self._writers[side].write(separator)
                self._writers[side].write(numbers)
                if self.limit is not None and self.tokens >= self.limit:
                    break
            if self.on_progress is not None:
                self.on_progress(self.tokens)
            if self.limit is not None and self.tokens >= self.limit:
                break
        if not self.documents:
            raise DataError(
                f"data is {self.source.name!r}, which has no text ({self.empty} empty documents)"
            )
        write_json(folder / INDEX, self._index())

    def _index(self) -> dict[str, Any]:
        """What the entry holds, as plain data."""
        return {
            "source": self.source.name,
            "documents": self.documents,
            "empty": self.empty,
            "skipped_files": self.source.skipped_files,
            **{
                side: [
                    {"file": shard.path.name, "tokens": shard.count, "sha256": shard.scan()[0]}
                    for shard in writer.close()
                ]
                for side, writer in self._writers.items()
            },
        }

    def _pieces(self) -> Iterator[tuple[str, bool, str]]:
        """Each piece of text with its side, and whether it begins a document."""
        for document in self.source.documents():
            held_out = self.source.divisible and is_held_out(document.name, self.held_out)
            first = True
            for text in document.pieces:
                yield "validation" if held_out else "train", first, text
                first = False
            self.documents += not first
            self.empty += first


def _groups(
    pieces: Iterator[tuple[str, bool, str]],
) -> Iterator[list[tuple[str, bool, str]]]:
    """The pieces in groups of about :data:`AT_A_TIME` characters."""
    group: list[tuple[str, bool, str]] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece[2])
        if size >= AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group
