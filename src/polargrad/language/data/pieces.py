"""Text in pieces: a document of any length is tokenized in parts that fit in the memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.data.cache import blocks_of

# In characters: some hundred lines of text or code.
PIECE = 2**14


def pieces_of(blocks: Iterable[str], *, length: int = PIECE) -> Iterator[str]:
    r"""Cut a text, given as blocks, into pieces of at most ``length`` characters.

    A piece ends after a line end that no white space follows, else before a single space between
    words, else at its full length. At the first two, byte-level BPE with the pattern of GPT-2 gives
    the tokens of the whole text. Where the blocks end makes no difference.

    Example:
        >>> list(pieces_of(["one\ntw", "o\nthree"], length=7))
        ['one\n', 'two\n', 'three']
    """
    text = ""
    for block in blocks:
        text += block
        start = 0
        while len(text) - start > length:
            cut = _cut(text, start, start + length)
            yield text[start:cut]
            start = cut
        text = text[start:]
    if text:
        yield text


def _cut(text: str, start: int, stop: int) -> int:
    """Where the piece that begins at ``start`` ends, at most at ``stop``, within the text."""
    end = text.rfind("\n", start, stop)
    while end >= 0:
        if not text[end + 1].isspace():
            return end + 1
        end = text.rfind("\n", start, end)
    space = text.rfind(" ", start + 1, stop)
    while space >= 0:
        if not text[space - 1].isspace() and not text[space + 1].isspace():
            return space
        space = text.rfind(" ", start + 1, space)
    return stop


def text_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file, a block at a time, to the byte: line ends stay as they are.

    Raises:
        DataError: if the file cannot be read, or is not UTF-8, with the place.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    try:
        for block in blocks_of(path):
            held_back = len(decoder.getstate()[0])
            yield decoder.decode(block)
            done += len(block)
        held_back = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(path)!r} is not UTF-8 text: {error.reason} at byte "
            f"{done - held_back + error.start}"
        ) from None
