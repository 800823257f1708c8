"""What a run trains and is evaluated on: two token streams that share nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.corpus import ACCEPTED_SHARES, VALIDATION_SHARE, walk
from polargrad.language.data.shards import Shard, open_shard
from polargrad.language.data.tokens import Tokens

BY_DOCUMENT = "by a hash of the document's name"
BY_RANGE = "the last tokens"
BY_FILE = "the files named val"


@dataclass(frozen=True)
class TokenData:
    """Tokens to train on and tokens that are held out, fixed by the data alone.

    Args:
        train: the training stream.
        validation: the held-out stream.
        digest: SHA-256 over both streams' shards and ranges: losses are comparable only where it
            is equal.
        split: how the held-out tokens were chosen, in words.
        documents: the number of documents with text; 0 where it is not known.
        empty: the number of documents that were skipped because they are empty.
        skipped_files: the number of files that were skipped because they are not text.
    """

    train: Tokens
    validation: Tokens
    digest: str
    split: str
    documents: int = 0
    empty: int = 0
    skipped_files: int = 0

    def require(self, shortest: int, name: str) -> None:
        """Raise unless both streams have ``shortest`` tokens.

        Raises:
            DataError: if one has fewer.
        """
        if min(len(self.train), len(self.validation)) < shortest:
            raise DataError(
                f"data is {name!r}, which is too short: {len(self.train)} tokens are for training "
                f"and {len(self.validation)} for validation, at least {shortest} are needed of each"
            )


def divided(
    train: Sequence[tuple[Shard, str]],
    validation: Sequence[tuple[Shard, str]],
    *,
    held_out: float,
    split: str,
) -> tuple[Tokens, Tokens, str, str]:
    """Return training and validation stream, the digest, and the split in words.

    Where the validation shards are too few or too many tokens to be a sensible part of the whole
    (less than a fifth or more than five times the share asked for, or more than half), the last
    tokens of all shards are held out instead.

    Args:
        train: the shards of training documents with the SHA-256 of their tokens.
        validation: those of held-out documents.
        held_out: the share of the tokens to hold out.
        split: how the shards were told apart.
    """
    shards = [shard for shard, _ in (*train, *validation)]
    total = sum(shard.count for shard in shards)
    border = sum(shard.count for shard, _ in train)
    low, high = (share / VALIDATION_SHARE * held_out for share in ACCEPTED_SHARES)
    if split != BY_FILE and not low * total <= total - border <= min(high, 0.5) * total:
        border, split = total - round(held_out * total), BY_RANGE
    digest = hashlib.sha256(f"{border}:{total}".encode())
    for _, contents in (*train, *validation):
        digest.update(bytes.fromhex(contents))
    whole = Tokens(shards)
    return whole.part(0, border), whole.part(border, total), digest.hexdigest(), split


def open_shards(
    path: Path, *, vocabulary: int, shortest: int = 2, held_out: float = VALIDATION_SHARE
) -> TokenData:
    """Return the tokens of a ``.bin`` shard, or of the shards of a folder in the order of names.

    Of a folder the shards with ``val`` in their names are held out, as modded-nanoGPT has it; where
    there are none, or only such, the last share of all tokens is. Every file is read once, a block
    at a time (about a second a gigabyte), for the digest and for tokens that the model cannot have.

    Args:
        path: the file or folder.
        vocabulary: the size of the model's vocabulary.
        shortest: the least number of tokens that either part must have.
        held_out: the share of the tokens to hold out where no file is.

    Raises:
        DataError: if there are no shards, one is damaged or has a token that the vocabulary does
            not have, or they are too short.
        ValueError: if ``held_out`` is not between 0 and 1.
    """
    check_share(held_out)
    if path.is_dir():
        files = [path / name for name in walk(path) if name.endswith(".bin")]
        if not files:
            raise DataError(f"data is {str(path)!r}, a folder without .bin files")
    else:
        files = [path]
    scanned = [_scanned(file, vocabulary) for file in files]
    train = [each for each in scanned if "val" not in each[0].path.name]
    validation = [each for each in scanned if "val" in each[0].path.name]
    named = path.is_dir() and train and validation
    streams = divided(train, validation, held_out=held_out, split=BY_FILE if named else BY_DOCUMENT)
    data = TokenData(*streams)
    data.require(shortest, str(path))
    return data


def _scanned(path: Path, vocabulary: int) -> tuple[Shard, str]:
    """The shard at ``path`` and the digest of its tokens, all of which the vocabulary has."""
    shard = open_shard(path)
    digest, largest = shard.scan()
    if largest >= vocabulary:
        raise DataError(
            f"the shard {str(path)!r} has the token {largest}, the model's vocabulary has "
            f"{vocabulary}: give a model of at least {largest + 1}, or other shards"
        )
    return shard, digest


def check_share(held_out: float) -> None:
    """Raise a ValueError unless this share can be held out."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
