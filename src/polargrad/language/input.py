"""What a run reads: the data that a user names, as tokens of the model's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polargrad.language.data import (
    ByteTokenizer,
    HuggingFace,
    RecordFiles,
    Source,
    TokenData,
    Tokenizer,
    TrainingBatches,
    load_tokenizer,
    open_data,
    source_of,
)
from polargrad.language.data.byte_tokens import BYTES
from polargrad.language.data.opening import FIELD, is_shards
from polargrad.language.data.tokenizer import LARGEST_VOCABULARY
from polargrad.language.models import ModelPreset


@dataclass(frozen=True)
class Input:
    """The tokens of a run.

    Args:
        data: the tokens to train on and those that are held out.
        tokenizer: what made them of text; None of token shards.
    """

    data: TokenData
    tokenizer: Tokenizer | None

    @property
    def unit(self) -> str:
        """What a loss is measured per: "byte" or "token"."""
        return "byte" if isinstance(self.tokenizer, ByteTokenizer) else "token"

    @property
    def description(self) -> str:
        """What there is to read, in a line."""
        data, unit = self.data, self.unit
        empty = f", {data.empty} empty ones left out" if data.empty else ""
        documents = f", documents: {data.documents:,}{empty}" if data.documents else ""
        skipped = f", {data.skipped_files} files that are not text" if data.skipped_files else ""
        return (
            f"{len(data.train):,} {unit}s to train on, {len(data.validation):,} to validate "
            f"({data.split}){documents}{skipped and skipped + ' left out'}"
        )

    def batches(
        self, preset: ModelPreset, seed: int, *, part: int = 0, parts: int = 1
    ) -> TrainingBatches:
        """Return the batches of a part of each step, ``preset.batch`` windows a part."""
        return TrainingBatches(
            self.data.train,
            batch=preset.batch * parts,
            context=preset.context,
            seed=seed,
            part=part,
            parts=parts,
        )


def open_input(
    preset: ModelPreset,
    data: str | Path | None = None,
    *,
    tokenizer: Path | None = None,
    field: str = FIELD,
    limit: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> Input:
    """Return ``data`` as tokens of the preset's vocabulary, at least a window for either part.

    A model whose vocabulary is the byte reads bytes. Any other reads the tokens of ``tokenizer``,
    or of a byte-level BPE of its vocabulary's size that is trained on the text and kept in the
    cache. Token shards are read as they are.

    Args:
        preset: the model.
        data: what :func:`polargrad.language.data.open_data` takes.
        tokenizer: the path of a ``tokenizer.json``, or of its folder.
        field: which field or column of a record holds the text.
        limit: how many tokens are enough.
        cache: the folder of the cache; None takes the user's.
        on_progress: is called with the number of tokens so far while text is tokenized.

    Raises:
        DataError: if the data cannot be read, do not fit the vocabulary or are too short.
        ValueError: if an argument does not apply to these data.
        MissingExtraError: if a package is missing that reads them.
    """
    source = _source(data, tokenizer, field)
    chosen: Tokenizer | None = None
    if tokenizer is not None:
        chosen = load_tokenizer(tokenizer)
    elif preset.vocabulary <= BYTES:
        chosen = ByteTokenizer()
    tokens, used = open_data(
        source,
        vocabulary=preset.vocabulary,
        tokenizer=chosen,
        shortest=preset.context + 1,
        limit=limit,
        cache=cache,
        on_progress=on_progress,
    )
    return Input(tokens, used)


def token_kind(
    preset: ModelPreset, data: str | Path | None = None, tokenizer: Path | None = None
) -> str:
    """Return what the tokens of a run will be, in words, without reading any.

    Example:
        >>> from polargrad.language.presets import preset_of
        >>> token_kind(preset_of("tiny")), token_kind(preset_of("small"))
        ('bytes', 'a byte-level BPE of 4,096 tokens')
    """
    if data is not None and is_shards(data):
        return "token shards"
    if tokenizer is not None:
        return f"the tokens of {str(tokenizer)!r}"
    if preset.vocabulary <= BYTES:
        return "bytes"
    return f"a byte-level BPE of {min(preset.vocabulary, LARGEST_VOCABULARY):,} tokens"


def _source(data: str | Path | None, tokenizer: Path | None, field: str) -> str | Path | Source:
    """The documents that ``data`` names, or the place of its shards; no option is in vain.

    Raises:
        ValueError: if an option does not apply to these data.
    """
    if data is not None and is_shards(data):
        if tokenizer is not None:
            raise ValueError(
                f"tokenizer must be None for token shards, which are read as they are, "
                f"got {str(tokenizer)!r}"
            )
        source: str | Path | Source = data
    else:
        source = source_of(data, field=field)
    if field != FIELD and not isinstance(source, RecordFiles | HuggingFace):
        raise ValueError(f"field is of records (JSONL, Parquet, hf:NAME) alone, got {field!r}")
    return source
