"""From what a user names to tokens: one entry for every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.corpus import VALIDATION_SHARE, walk
from polargrad.language.data.hugging_face import HuggingFace
from polargrad.language.data.record_files import JSON_LINES, PARQUET, RecordFiles
from polargrad.language.data.sources import Source
from polargrad.language.data.text_files import TextFiles
from polargrad.language.data.token_data import TokenData, open_shards
from polargrad.language.data.tokenizer import LARGEST_VOCABULARY, Tokenizer
from polargrad.language.data.tokenizer_cache import cached_tokenizer
from polargrad.language.data.tokenizing import tokenized

HUB = "hf:"
SHARDS = (".bin",)
# What most data sets call the field that holds the text.
FIELD = "text"


def source_of(data: str | Path | None, *, field: str = FIELD) -> Source:
    """Return the documents that ``data`` names.

    Args:
        data: None for the Python standard library's source; ``hf:NAME`` or ``hf:NAME:CONFIG`` for
            a data set of the Hugging Face hub, or a local folder in its format; a ``.jsonl``,
            ``.ndjson`` or ``.parquet`` file; a folder that has such files and of one of the two
            kinds only; any other file or folder of UTF-8 text.
        field: which field or column of a record holds the text.

    Raises:
        DataError: if there is no such thing, or a folder has both kinds.

    Example:
        >>> source_of("hf:HuggingFaceFW/fineweb-edu:sample-10BT").name
        "the data set 'HuggingFaceFW/fineweb-edu' (sample-10BT)"
    """
    if data is None:
        return TextFiles.standard_library()
    if isinstance(data, str) and data.startswith(HUB):
        name, _, config = data.removeprefix(HUB).partition(":")
        if not name:
            raise DataError(f"data is {data!r}, which names no data set: give hf:NAME")
        return HuggingFace(name, config=config or None, field=field)
    path = Path(data)
    if not path.exists():
        raise DataError(f"data is {str(path)!r}, which does not exist: give a file or a folder")
    names = walk(path) if path.is_dir() else [path.name]
    kinds = [kind for kind in (JSON_LINES, PARQUET) if any(n.endswith(kind) for n in names)]
    if len(kinds) > 1:
        raise DataError(f"data is {str(path)!r}, a folder with JSONL and Parquet: give one of them")
    return RecordFiles.at(path, kinds[0], field) if kinds else TextFiles.at(path)


def open_data(
    data: str | Path | Source | None,
    *,
    vocabulary: int,
    tokenizer: Tokenizer | None = None,
    field: str = FIELD,
    shortest: int = 2,
    held_out: float = VALIDATION_SHARE,
    limit: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> tuple[TokenData, Tokenizer | None]:
    """Return the tokens of ``data`` and the tokenizer that made them; None of token shards.

    Args:
        data: as :func:`source_of` takes it, or a source; or a ``.bin`` shard, or a folder with
            such, which need no tokenizer.
        vocabulary: the size of the model's vocabulary.
        tokenizer: None trains one of ``vocabulary`` tokens, but 65536 at most, on the text.
        field: which field or column of a record holds the text.
        shortest: the least number of tokens that either part must have.
        held_out: the share of the documents, or tokens, to hold out.
        limit: how many tokens are enough; None takes all. Token shards are taken whole.
        cache: the folder of the cache; None takes the user's.
        on_progress: is called with the number of tokens so far while text is tokenized.

    Raises:
        DataError: if the data cannot be read, do not fit the vocabulary or are too short.
        ValueError: if an argument is not allowed.
    """
    if isinstance(data, str | Path) and is_shards(data):
        if limit is not None:
            raise ValueError(f"limit must be None for token shards, got {limit}")
        path = Path(data)
        return open_shards(path, vocabulary=vocabulary, shortest=shortest, held_out=held_out), None
    source = source_of(data, field=field) if data is None or isinstance(data, str | Path) else data
    if tokenizer is None:
        tokenizer = cached_tokenizer(
            source,
            vocabulary=min(vocabulary, LARGEST_VOCABULARY),
            held_out=held_out,
            cache=cache,
        )
    tokens = tokenized(
        source,
        tokenizer,
        vocabulary=vocabulary,
        shortest=shortest,
        held_out=held_out,
        limit=limit,
        cache=cache,
        on_progress=on_progress,
    )
    return tokens, tokenizer


def is_shards(data: str | Path) -> bool:
    """Return whether ``data`` is a token shard or a folder with one."""
    path = Path(data)
    if path.is_dir() and not str(data).startswith(HUB):
        return any(name.endswith(SHARDS) for name in walk(path))
    return str(data).endswith(SHARDS)
