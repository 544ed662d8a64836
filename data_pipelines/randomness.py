"""Seeds and permutations that are equal in every process and need constant time and memory.

The integer arithmetic is written out here so that the order of the data does not depend on the version of a library.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def stable_seed(*parts: object) -> int:
    """Returns a 63-bit seed that depends on every part (by its repr) and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def scramble(values: np.ndarray) -> np.ndarray:
    """Applies a bijection of uint64 [n] that mixes the bits of each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniform(seeds: np.ndarray) -> np.ndarray:
    """Returns for each seed, uint64 [n], a float64 in [0, 1): a function of the seed alone."""
    return (scramble(seeds) >> np.uint64(11)) * 2.0**-53


def spread(seed: int | np.ndarray, numbers: int | np.ndarray) -> np.ndarray:
    """Returns one seed for each number, uint64, derived from `seed`; number 0 gets `seed` itself."""
    return np.atleast_1d(np.asarray(seed, np.uint64)) + np.asarray(numbers).astype(np.uint64) * np.uint64(_GOLDEN)


def weyl(first: int, count: int) -> np.ndarray:
    """Returns terms first .. first + count - 1 of the golden-ratio sequence as fractions of 2^64, uint64 [count].

    Among any consecutive terms, the number that falls into an interval is proportional to the interval's length to within a few terms
    (the discrepancy grows with the logarithm of the number of terms).
    """
    return np.arange(first, first + count, dtype=np.uint64) * np.uint64(_GOLDEN)


def permute(index: np.ndarray, size: int, seeds: np.ndarray) -> np.ndarray:
    """Returns the image of each index under its seed's permutation of range(size), int64 [n].

    The permutation is a Feistel network over the next even number of bits. Results outside the range are passed through it again until they
    are inside, so it remains a bijection.

    Args:
      index: [n] integers in [0, size).
      size: length of the permuted range, at least 1.
      seeds: [n] uint64; equal seeds mean the same permutation.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values = index.astype(np.uint64)
    pending = np.arange(len(values))
    while len(pending):
        left, right, keys = values[pending] >> half, values[pending] & mask, seeds[pending]
        for i in range(_ROUNDS):
            left, right = right, left ^ (scramble(right + keys + np.uint64((i + 1) * _GOLDEN % 2**64)) & mask)
        values[pending] = (left << half) | right
        pending = pending[values[pending] >= np.uint64(size)]
    return values.astype(np.int64)
