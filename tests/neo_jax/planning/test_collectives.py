"""Collectives read from compilers' texts: written by hand after what TPU and GPU compilers print, and compiled here."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from neo_jax.planning.collectives import EXCHANGE_OF_SLICES, SUM_OF_SLICES, Collective, collectives
from neo_jax.sharding import make_mesh, spec

SIZES = {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}

TPU = """HloModule jit_step, is_scheduled=true

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[] parameter(0)
  %y = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%x, %y)
}

%all-reduce-scatter.3.clone.1 (input: bf16[2048,16]) -> bf16[512,16] {
  %input = bf16[2048,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.7 = bf16[2048,16]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %slice = bf16[512,16]{1,0} dynamic-slice(%all-reduce.7, %zero, %zero), dynamic_slice_sizes={512,16}
}

%fused_start (p: bf16[256,8]) -> bf16[1024,8] {
  %p = bf16[256,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[1024,8]{1,0} all-gather(%p), channel_id=5, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
}

%async_collective_fusion.9 (p.2: bf16[256,8]) -> bf16[1024,8] {
  %p.2 = bf16[256,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[1024,8]{1,0} all-gather(%p.2), channel_id=5, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
}

%on_sparsecore (p.3: bf16[64]) -> bf16[256] {
  %p.3 = bf16[64]{0} parameter(0)
  ROOT %all-gather.3 = bf16[256]{0} all-gather(%p.3), channel_id=6, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (state: (s32[], bf16[256,8])) -> (s32[], bf16[256,8]) {
  %state = (s32[], bf16[256,8]{1,0}) parameter(0)
  %part = bf16[256,8]{1,0} get-tuple-element(%state), index=1
  %async-collective-start = (bf16[256,8]{1,0}, bf16[1024,8]{1,0}) fusion(%part), kind=kCustom, calls=%fused_start
  %busy = bf16[1024,8]{1,0} fusion(%part), kind=kCustom, calls=%async_collective_fusion.9
  %async-collective-done = bf16[1024,8]{1,0} fusion(%busy), kind=kCustom, calls=%fused_start
  %scattered = bf16[512,16]{1,0} fusion(%busy), kind=kCustom, calls=%all-reduce-scatter.3.clone.1
  %permute = (bf16[44]{0}, bf16[44]{0}, u32[], u32[]) collective-permute-start(%part), channel_id=1, source_target_pairs={{0,4},{1,5}}
  ROOT %next = (s32[], bf16[256,8]{1,0}) tuple(%part, %part)
}

%condition (state.2: (s32[], bf16[256,8])) -> pred[] {
  %state.2 = (s32[], bf16[256,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.2), index=0
  %limit = s32[]{:T(128)} constant(28), metadata={op_name="cond"}
  %other = s32[] constant(1)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p.4: bf16[256,8], p.5: bf16[64]) -> bf16[] {
  %p.4 = bf16[256,8]{1,0} parameter(0)
  %p.5 = bf16[64]{0} parameter(1)
  %call-start = ((bf16[64]{0}), bf16[256]{0}, u32[]) call-start(%p.5), async_execution_thread="sparsecore", to_apply=%on_sparsecore
  %start = (s32[], bf16[256,8]{1,0}) tuple(%p.4, %p.4)
  %loop = (s32[], bf16[256,8]{1,0}) while(%start), condition=%condition, body=%body
  %alone = bf16[] all-reduce(%p.4), channel_id=9, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %all-reduce.8 = (f32[3]{0}, bf16[2,2]{1,0}) all-reduce(%p.4, %p.5), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""  # noqa: E501

GPU = """HloModule jit_step

ENTRY %main (p: bf16[256]) -> bf16[] {
  %p = bf16[256]{0} parameter(0)
  %all-gather-start = ((bf16[256]{0}, f32[2]{0}), (bf16[1024]{0}, f32[8]{0})) all-gather-start(%p, %p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %reduce-scatter-start = ((bf16[1024]{0}), bf16[256]{0}) reduce-scatter-start(%p), channel_id=2, replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add
  ROOT %all-reduce-start = f32[100]{0} all-reduce-start(%p), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add, backend_config={"collective_backend_config":{"is_sync":true}}
}
"""  # noqa: E501


def test_tpu_text():
    fsdp, pair = (0, 1, 2, 3), (0, 4)
    assert collectives(TPU, SIZES) == [
        Collective("reduce-scatter", ("fsdp",), "bf16[2048,16]", 65536, 28, False, fsdp),
        Collective("all-gather", ("fsdp",), "bf16[1024,8]", 16384, 28, True, fsdp),
        Collective("collective-permute", ("data",), "bf16[44]", 88, 28, True, pair),
        Collective("all-gather", ("fsdp",), "bf16[256]", 512, 1, True, fsdp),
        Collective("all-reduce", ("data", "fsdp"), "f32[3]", 20, 1, False, tuple(range(8))),
    ]


SLICES = """HloModule jit_step

ENTRY %main (p: bf16[256]) -> bf16[] {
  %p = bf16[256]{0} parameter(0)
  %token = token[] after-all()
  %send = (bf16[2048,8]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) send(%p, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %send.1 = (f32[4]{0}, u32[], token[]) send(%p, %token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
}
"""  # noqa: E501


def test_between_slices():
    assert collectives(SLICES, SIZES) == [
        Collective(SUM_OF_SLICES, ("data",), "bf16[2048,8]", 32768, 1, True, ()),
        Collective(EXCHANGE_OF_SLICES, ("data",), "f32[4]", 16, 1, True, ()),
    ]


def test_gpu_text():
    assert collectives(GPU, SIZES) == [
        Collective("all-gather", ("fsdp",), "bf16[1024]", 2080, 1, True, (0, 1, 2, 3)),
        Collective("reduce-scatter", ("data",), "bf16[1024]", 2048, 1, True, (0, 4)),
        Collective("all-reduce", ("data", "fsdp"), "f32[100]", 400, 1, False, tuple(range(8))),
    ]


@pytest.mark.parametrize(
    ("name", "kind", "axes", "bytes_"),
    [
        ("gather", "all-gather", ("fsdp",), 8 * 128 * 4 // 2),
        ("sum", "all-reduce", ("data", "fsdp"), 128 * 4),
        ("exchange", "all-to-all", ("fsdp",), 128 * 4),
        ("shift", "collective-permute", ("fsdp",), 128 * 4),
    ],
)
def test_compiled_here(name, kind, axes, bytes_):
    """Five times in a loop, of rows of 128 float32."""
    mesh = make_mesh(data=2, fsdp=4)

    def once(x):
        match name:
            case "gather":
                return x + jax.lax.all_gather(x, "fsdp", axis=0, tiled=True).sum(0)
            case "sum":
                return jax.lax.psum(jnp.sin(x), ("data", "fsdp")) * 0.1
            case "exchange":
                return jnp.cos(jax.lax.all_to_all(x, "fsdp", split_axis=1, concat_axis=1, tiled=True))
            case "shift":
                return jnp.cos(jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]))

    @functools.partial(jax.shard_map, in_specs=spec("batch", None), out_specs=spec("batch", None), check_vma=False)
    def loop(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: once(x), x)

    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=NamedSharding(mesh, spec("batch", None)))
        text = jax.jit(loop).lower(x).compile().as_text()
    found = collectives(text, dict(mesh.shape))
    assert [(each.kind, each.axes, each.count) for each in found] == [(kind, axes, 5)]
    assert found[0].bytes == bytes_
