"""Compiles the Hopper kernels for an H200, which need not be there, and prints what the compilers say of them.

usage: python tests/aot_gpu/compile_kernels.py LENGTH QUERY_HEADS KEY_HEADS      in an environment of requirements-gpu.txt

The assembler's report goes to standard output, then `temporary bytes: forward N, backward N` and
`kernels of a rematerialised layer: N, with its attention kept N`.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import nvidia.cu13  # noqa: E402

toolkit = nvidia.cu13.__path__[0]
os.environ["PATH"] = f"{toolkit}/bin:{os.environ['PATH']}"
os.environ["XLA_FLAGS"] = f"--xla_gpu_cuda_data_dir={toolkit}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is compiled already is not reported
os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, PartitionSpec  # noqa: E402

from data_pipelines.batch import Intervals  # noqa: E402
from neo_jax.attention import api, hopper  # noqa: E402
from neo_jax.attention.hopper.common import BLOCKS, KEY_WIDTH, VALUE_WIDTH  # noqa: E402

SCALE = 128**-0.5


def main(length: int, query_heads: int, key_heads: int) -> None:
    topology = topologies.get_topology_desc(
        "h200", "cuda", topology="1x1x1", target_config=(HERE.parents[1] / "neo_jax" / "planning" / "gpus" / "h200.txtpb").read_text()
    )
    mesh = Mesh(topology.devices[:1], ("data",))

    def array(*shape, dtype=jnp.bfloat16):
        sharding = jax.sharding.NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct((1, *shape), dtype, sharding=sharding)

    def temporary_bytes(function, *arguments):
        sharded = jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
        compiled = jax.jit(sharded).lower(*arguments).compile(compiler_options={"xla_gpu_autotune_level": 0})
        return compiled.memory_analysis().temp_size_in_bytes

    q, k = array(length, query_heads, KEY_WIDTH), array(length, key_heads, KEY_WIDTH)
    v, gradient = (array(length, heads, VALUE_WIDTH) for heads in (key_heads, query_heads))
    bounds, per_query = array(length, dtype=jnp.int32), array(query_heads, length, dtype=jnp.float32)
    intervals = Intervals(bounds, bounds)
    forward = temporary_bytes(lambda *x: hopper.forward(*x, SCALE), q, k, v, intervals)
    backward = temporary_bytes(lambda *x: hopper.backward(*x, SCALE), q, k, v, intervals, per_query, per_query, gradient)
    print(f"\ntemporary bytes: forward {forward}, backward {backward}")

    def kernels(policy):
        """Calls of kernels in the gradient of a rematerialised layer of attention."""

        def loss(q, k, v, intervals):
            def layer(q):
                return api.attention_with_lse(jnp.sin(q), k, v, intervals, SCALE, api.Kernel("hopper", BLOCKS))[0]

            return jnp.square(jax.checkpoint(layer, policy=policy)(q).astype(jnp.float32)).sum()

        compiled = jax.jit(jax.grad(loss)).lower(q, k, v, intervals).compile(compiler_options={"xla_gpu_autotune_level": 0})
        return compiled.as_text().count("custom-call(")

    kept = jax.checkpoint_policies.save_only_these_names(*api.SAVED_NAMES)
    print(f"kernels of a rematerialised layer: {kernels(None)}, with its attention kept {kernels(kept)}")


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:]))
