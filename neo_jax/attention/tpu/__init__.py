"""Interval attention for TPUs (Pallas, Mosaic): forward, dK/dV and dQ in memory linear in length.

The tiles that the intervals touch are listed at run time and prefetched as scalars; the grid is as long as that list, so a tile outside is neither
copied nor computed. A tile that lies inside every interval is computed without a mask. One that an edge cuts is divided into strips of small
squares, of which only the touched ones are computed, unless most of them are touched.

The backward pass computes scores transposed, keys x queries: what belongs to a query (lo, hi, log-sum-exp, delta) is then one row that
broadcasts over sublanes for nothing. The forward pass does not: its product with the values would be the slower one (7,079 instead of 6,353
instructions a tile on v5e); it spreads lo and hi over lanes, once for each tile of queries. Accumulation and softmax are float32.

Shape legend: H query heads, K key heads, N queries and S keys of all rows laid end to end, D key width, V value width; X keys and C queries of
what is computed at once.
"""

from neo_jax.attention.tpu.backward import backward
from neo_jax.attention.tpu.common import supports
from neo_jax.attention.tpu.forward import forward
from neo_jax.attention.tpu.tiles import Blocks, computed_pairs

__all__ = ["Blocks", "backward", "computed_pairs", "forward", "supports"]
