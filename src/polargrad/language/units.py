"""Numbers of bytes and of operations in units that read well."""

from __future__ import annotations

__all__ = ["bytes_in_words", "count_in_words"]

GIBIBYTE, MEBIBYTE = 2**30, 2**20


def bytes_in_words(count: float) -> str:
    """Return a number of bytes in GiB or MiB.

    Example:
        >>> bytes_in_words(3 * 2**29), bytes_in_words(2**19)
        ('1.50 GiB', '0.50 MiB')
    """
    if count >= GIBIBYTE:
        return f"{count / GIBIBYTE:.2f} GiB"
    return f"{count / MEBIBYTE:.2f} MiB"


def count_in_words(count: float) -> str:
    """Return a number of operations with the letter of a power of a thousand.

    Example:
        >>> count_in_words(2.5e12), count_in_words(1500), count_in_words(0)
        ('2.5 T', '1.5 k', '0')
    """
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {letter}"
    return f"{count / 1e3:.3g} k" if count else "0"
