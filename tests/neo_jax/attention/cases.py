"""Packed rows of every kind that an attention path must get right, and the dense float64 answer for them, values and gradients."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.batch import Intervals
from neo_jax.attention.api import Kernel, attention_with_lse
from neo_jax.attention.reference import dense_attention

SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """Documents of a row are lists of pieces: a number of text tokens, or (n,) for an image of n tokens. What they leave is padding.

    Attributes:
      rows: documents of each row.
      length: tokens of a row.
      query_heads, key_heads: Hq, Hkv.
      part: the queries [start, stop) of each row that are asked; all keys stay.
    """

    name: str
    rows: tuple[tuple[tuple[int | tuple[int], ...], ...], ...]
    length: int
    query_heads: int = 2
    key_heads: int = 1
    part: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name


LONG = ((384,),)
SHORT = tuple((n,) for n in (5, 40, 17, 64, 1, 33, 80, 12, 7, 50, 3, 29, 43))
# The first image crosses the 128th token, the second lies over the 256th and 320th.
IMAGES = ((100, (60,), 20, (4,), 6), (30, (130,), 34))
PICTURES = (((128,),), ((70,), (58,)), ((128,),))
MIXED = ((20, (9,), 3), (50,), ((30,), 20, (40,), 30), (60, (25,), 15), (40,))

CASES = (
    # One document, many short ones, images across tile edges and nothing else, little and much padding: together, since tracing costs the most.
    Case("rows of every kind", (LONG, SHORT, IMAGES, PICTURES, MIXED[:2], ((10,),)), 384),
    Case("no multiple of a tile", (MIXED, SHORT[:9]), 390),
    Case("groups of 1", (MIXED,), 384, 2, 2),
    Case("groups of 4", (IMAGES,), 384, 4, 1),
    Case("two key heads in groups of 2", (MIXED,), 384, 4, 2),
    Case("a part of the queries", (IMAGES, LONG, MIXED), 384, part=(100, 300)),
    Case("few queries", (IMAGES, MIXED), 384, part=(383, 384)),
)
NAMED = {case.name: case for case in CASES}


def cases(*daily: str):
    """All cases as parameters of a test; those not named here run in `make test-nightly` alone."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, marks=() if case.name in daily else pytest.mark.nightly, id=case.name) for case in CASES]
    )


def intervals(documents: tuple[tuple[int | tuple[int], ...], ...], length: int) -> np.ndarray:
    """[length, 2] int32 lo, hi of a packed row, written out by hand; padding sees itself."""
    attend = np.stack([np.arange(length), np.arange(length) + 1], -1)
    at = 0
    for document in documents:
        start = at
        for piece in document:
            if isinstance(piece, tuple):
                attend[at : at + piece[0], 1] = at + piece[0]
                at += piece[0]
            else:
                at += piece
        attend[start:at, 0] = start
    if at > length:
        raise ValueError(f"documents of {at} tokens in a row of {length}")
    return attend.astype(np.int32)


def random_intervals(length: int, rng: np.random.Generator, longest: int = 150) -> np.ndarray:
    """[length, 2] of random documents with images of several tokens and some padding."""
    documents, left = [], length - int(rng.integers(0, 30))
    while left > 0:
        size = min(left, int(rng.integers(1, longest)))
        left -= size
        pieces: list[int | tuple[int]] = []
        while size > 0:
            piece = min(size, int(rng.integers(1, 60)))
            pieces.append((piece,) if rng.random() < 0.5 else piece)
            size -= piece
        documents.append(tuple(pieces))
    return intervals(tuple(documents), length)


def arrays(case: Case, key_width: int = 256, value_width: int = 128, seed: int = 0):
    """q, k, v, intervals and the gradients of the output and of its log-sum-exp, float32 numpy."""
    attend = np.stack([intervals(documents, case.length) for documents in case.rows])
    return with_intervals(attend, case.query_heads, case.key_heads, key_width, value_width, seed, case.part)


def with_intervals(attend, query_heads, key_heads, key_width=256, value_width=128, seed=0, part=None):
    """The same for given intervals [B, L, 2]."""
    rng = np.random.default_rng(seed)
    rows, length, _ = attend.shape
    start, stop = part or (0, length)
    attend = attend[:, start:stop]

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    q = normal(rows, stop - start, query_heads, key_width)
    k, v = normal(rows, length, key_heads, key_width), normal(rows, length, key_heads, value_width)
    d_out, d_lse = normal(rows, stop - start, query_heads, value_width), normal(rows, query_heads, stop - start)
    return q, k, v, Intervals(attend[..., 0], attend[..., 1]), d_out, d_lse


@jax.jit
def _dense(q, k, v, intervals, d_out, d_lse):
    lo, hi = intervals

    def both(q, k, v):
        groups = q.shape[2] // k.shape[2]
        scores = jnp.einsum("blhd,bshd->bhls", q, jnp.repeat(k, groups, axis=2)) * SCALE
        position = jnp.arange(k.shape[1])
        mask = (position >= lo[..., None]) & (position < hi[..., None])
        return dense_attention(q, k, v, intervals, SCALE), jax.nn.logsumexp(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)

    (out, lse), pullback = jax.vjp(both, q, k, v)
    return out, lse, *pullback((d_out, d_lse))


def expected(q, k, v, intervals, d_out, d_lse) -> list[np.ndarray]:
    """Output [B, L, Hq, Dv], log-sum-exp [B, Hq, L] and the gradients of q, k and v, in float64."""
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in (q, k, v)]
        return [np.asarray(x) for x in _dense(*wide, intervals, np.asarray(d_out, np.float64), np.asarray(d_lse, np.float64))]


@functools.partial(jax.jit, static_argnums=6)
def _kernel(q, k, v, intervals, d_out, d_lse, kernel):
    results, pullback = jax.vjp(lambda *x: attention_with_lse(*x, intervals, SCALE, kernel), q, k, v)
    return *results, *pullback((d_out, d_lse))


def computed(kernel: Kernel, q, k, v, intervals, d_out, d_lse, dtype=np.float32) -> list[np.ndarray]:
    """The same as `expected`, by a kernel, in a type."""
    with jax.default_matmul_precision("highest"):
        q, k, v, d_out = (jnp.asarray(x, dtype) for x in (q, k, v, d_out))
        return [np.asarray(x, np.float64) for x in _kernel(q, k, v, intervals, d_out, d_lse, kernel)]


def rounded(q, k, v, intervals, d_out, d_lse):
    """Inputs as bfloat16 holds them, in float32."""
    q, k, v, d_out = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (q, k, v, d_out))
    return q, k, v, intervals, d_out, d_lse


NAMES = ("output", "log-sum-exp", "gradient of q", "gradient of k", "gradient of v")


def assert_equal(ours, theirs, tolerance: float) -> None:
    """Each array within `tolerance` of its largest element (at least 1)."""
    for name, mine, right in zip(NAMES, ours, theirs, strict=True):
        mine = np.asarray(mine, np.float64)
        assert mine.shape == right.shape, name
        np.testing.assert_allclose(mine, right, rtol=0, atol=tolerance * max(1.0, np.abs(right).max()), err_msg=name)
