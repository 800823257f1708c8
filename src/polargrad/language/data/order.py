"""A pseudo-random order of any number of things, computed for one place at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

ROUNDS = 6
_WORD = 2**64 - 1


@dataclass(frozen=True)
class Permutation:
    r"""A permutation of 0 … size − 1 that depends on a seed and takes no memory.

    A Feistel network on the smallest square domain :math:`4^h` that holds ``size``, with
    :math:`x = (l, r)` of two halves of h bits,

    .. math:: (l, r) \leftarrow (r,\; l \oplus F_k(r)), \qquad k = 1, \ldots, 6,

    is a bijection whatever the functions F are; a value beyond ``size`` is sent through again
    (cycle walking) until it falls below, which keeps the bijection and takes less than four turns
    on average. F is the finalizer of SplitMix64 with keys from SHAKE-256 of the seed.

    Args:
        size: how many things are ordered, at least 1.
        seed: any text; two seeds give unrelated orders.

    Raises:
        ValueError: if ``size`` is less than 1.

    Example:
        >>> order = Permutation(10, "seed 0, epoch 0")
        >>> sorted(order[place] for place in range(10))
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

    Source: M. Luby and C. Rackoff, *How to construct pseudorandom permutations* (1988); J. Black
    and P. Rogaway, *Ciphers with arbitrary finite domains* (2002), section 4; G. Steele, D. Lea and
    C. Flood, *Fast splittable pseudorandom number generators* (2014).
    """

    size: int
    seed: str
    _half: int = field(init=False, repr=False, compare=False)
    _keys: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        keys = hashlib.shake_256(self.seed.encode()).digest(8 * ROUNDS)
        object.__setattr__(self, "_half", max(1, ((self.size - 1).bit_length() + 1) // 2))
        object.__setattr__(
            self,
            "_keys",
            tuple(int.from_bytes(keys[8 * k : 8 * k + 8], "big") for k in range(ROUNDS)),
        )

    def __getitem__(self, place: int) -> int:
        """Return which thing stands at this place of the order."""
        if not 0 <= place < self.size:
            raise IndexError(f"place must be from 0 to {self.size - 1}, got {place}")
        value = self._turn(place)
        while value >= self.size:
            value = self._turn(value)
        return value

    def _turn(self, value: int) -> int:
        """Send a value of the square domain once through the network."""
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << self._half | right


def _mixed(word: int) -> int:
    """The finalizer of SplitMix64, of a 64-bit word."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31
