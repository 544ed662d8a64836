"""Other attentions that can express an interval mask, as functions of (q, k, v) [1, L, H, D]; imported when they are called.

What they cannot do (a machine, a width, a length) they say by raising, which the benchmark prints.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import Intervals

LONGEST_DENSE = 16_384  # tokens up to which an L x L mask is worth building


def dense_mask(row: Intervals) -> np.ndarray:
    """[L, L] bool: what the alternatives without intervals need."""
    length = len(row.lo)
    if length > LONGEST_DENSE:
        raise ValueError(f"it needs a mask of {length} x {length} elements")
    position = np.arange(length)
    return (position >= row.lo[:, None]) & (position < row.hi[:, None])


def _jax_nn(implementation: str, q, k, v, *, row, scale):
    """jax.nn takes values as wide as keys only: they are filled up with zeros."""
    wide = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, k.shape[-1] - v.shape[-1])))
    mask = jnp.asarray(dense_mask(row))[None, None]
    return jax.nn.dot_product_attention(q, k, wide, mask=mask, scale=scale, implementation=implementation)[..., : v.shape[-1]]


def jax_xla(q, k, v, *, row, scale):
    return _jax_nn("xla", q, k, v, row=row, scale=scale)


def cudnn(q, k, v, *, row, scale):
    return _jax_nn("cudnn", q, k, v, row=row, scale=scale)


def tokamax(q, k, v, *, row, scale):
    """Its public function takes masks dense; its kernels know intervals, but not through it (0.0.17)."""
    import tokamax

    return tokamax.dot_product_attention(q, k, v, mask=jnp.asarray(dense_mask(row))[None, None], scale=scale)


def splash(q, k, v, *, row, scale):
    """jax's TPU kernel: needs the mask dense, on the host, when it is traced."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.NumpyMask(dense_mask(row))] * q.shape[2])
    kernel = splash_attention_kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1)
    groups = q.shape[2] // k.shape[2]
    q, k, v = (x[0].swapaxes(0, 1) for x in (q * scale, jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)))
    return kernel(q.astype(k.dtype), k, v).swapaxes(0, 1)[None]


ALTERNATIVES = {"jax.nn xla": jax_xla, "cuDNN": cudnn, "tokamax": tokamax, "splash": splash}
