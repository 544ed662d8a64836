"""How full the TPU compiler's schedules of the attention kernels are, without a TPU: python benchmarks/tpu_occupancy.py [--chip v5e].

STATIC figures, from the compiler's own bundle dumps, not times: a bundle is what a core issues in one cycle; stalls and copies are not in it.
For each kernel: bundles of a whole tile and the share of the MXU's issue slots in it (occupancy); of a tile computed with a mask, and its ratio to
the whole one; and of one strip of 1, 2, ... squares. And what each kind of row (packed_rows.py, 8,192 tokens) takes in all, with 500 bundles added
for each visited tile: a guess of what a step of the grid costs. Needs libtpu (`make test-aot` brings it).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # run as a file, from anywhere

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.packed_rows import row_kinds
from data_pipelines.batch import Intervals, map_arrays
from neo_jax.attention.api import Kernel, attention_with_lse, choose
from neo_jax.attention.tpu import Blocks, tiles
from neo_jax.planning.devices import one_chip

KERNELS = ("forward", "dkv", "dq")
MATRIX_SLOT = "MATMUL"
STEP_BUNDLES = 500
HEADS = [jax.ShapeDtypeStruct((1, 8192, n, d), jnp.bfloat16) for n, d in ((16, 256), (8, 256), (8, 128))]  # q, k, v of 2B


@dataclasses.dataclass(frozen=True)
class Part:
    """A straight piece of a kernel: what of a tile it computes, its bundles, and the share of the MXU's slots that they use."""

    name: str
    bundles: int
    occupancy: float


def occupancy(chip: str, blocks: Blocks | None = None) -> dict[str, list[Part]]:
    """The parts of each kernel, compiled for one chip with these blocks (None: the chip's own), 2B heads in bfloat16."""
    with one_chip(chip):
        blocks = blocks or choose(*HEADS, "tpu").blocks
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"  # libtpu reads them when it is loaded: hence another process
        environment = os.environ | {"LIBTPU_INIT_ARGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        done = subprocess.run(
            [sys.executable, __file__, "--compile", json.dumps([chip, dataclasses.asdict(blocks)])],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"compiling for {chip} failed:\n{done.stderr[-4000:]}")
        return {kernel: _parts(pathlib.Path(folder), kernel, blocks) for kernel in KERNELS}


def compile_kernels(chip: str, blocks: Blocks) -> None:
    """Compiles forward and backward; libtpu writes its dumps."""
    intervals = Intervals(*[jax.ShapeDtypeStruct((1, 8192), jnp.int32)] * 2)

    def gradient(q, k, v, intervals):
        return jax.grad(lambda *x: attention_with_lse(*x, intervals, 0.1, Kernel("tpu", blocks))[0].sum(), argnums=(0, 1, 2))(q, k, v)

    with one_chip(chip) as sharding:
        jax.jit(gradient, in_shardings=sharding, out_shardings=sharding).lower(*HEADS, intervals).compile()


def _parts(folder: pathlib.Path, kernel: str, blocks: Blocks) -> list[Part]:
    """The pieces with matrix products, in the order of the kernel's program: whole, masked, strips."""
    bundles = max(path for path in folder.glob(f"*interval_attention_{kernel}*final_bundles.txt") if "schedule-analysis" not in path.name)
    slots = max(folder.glob(f"*interval_attention_{kernel}*final_hlo-static-per-bundle-utilization.txt"))
    _, names, capacity, _, *rows = slots.read_text().splitlines()
    column = [name.strip() for name in names.split(",")].index(MATRIX_SLOT)
    used = [int(row.split()[column]) for row in rows if row.strip()]
    edges = {0, len(used)}
    at = 0
    for line in bundles.read_text().splitlines():
        if match := re.match(r"\s*(0x[0-9a-f]+|0)\s+(\w*)[: ]", line):
            if match[2]:
                edges.add(at)  # something jumps here
            if "sbr." in line:
                edges.add(at + 1)  # behind a jump
            at += 1
    if at != len(used):
        raise RuntimeError(f"{bundles.name} has {at} bundles, its utilization {len(used)}: the compiler's format has changed")
    cuts = sorted(edges)
    pieces = [(end - start, sum(used[start:end])) for start, end in itertools.pairwise(cuts)]
    pieces = [(length, matrix) for length, matrix in pieces if matrix]
    strips = (blocks.query if kernel == "dkv" else blocks.key) // blocks.square
    names = ["whole", "masked", *(f"strip of {n}" for n in range(1, strips + 1))]
    if len(pieces) != len(names):
        raise RuntimeError(f"{kernel}: {len(pieces)} pieces with matrix products, expected {len(names)}: {pieces}")
    slots_a_bundle = int(capacity.split()[column])
    return [Part(name, length, matrix / length / slots_a_bundle) for name, (length, matrix) in zip(names, pieces, strict=True)]


def row_bundles(parts: dict[str, list[Part]], blocks: Blocks, intervals: Intervals) -> dict[str, int]:
    """Bundles of each kernel for one head over a row [L], STEP_BUNDLES added for each tile that is visited."""
    length = len(intervals.lo)
    plan = tiles.TilePlan((1, length), (1, length), map_arrays(lambda x: x[None], intervals), blocks)
    result = {}
    for kernel, (whole, masked, *strips) in parts.items():
        steps, count, squares = (np.asarray(x) for x in (plan.of_keys() if kernel == "dkv" else plan.of_queries()))
        sizes = (blocks.key, blocks.query) if kernel == "dkv" else (blocks.query, blocks.key)
        rows, columns = (size // blocks.square for size in sizes)
        first, last = squares.reshape(2, -1, rows)
        total = int(count) * STEP_BUNDLES
        for step in steps[:count]:
            kind, left = (step >> 2) & 3, tiles.column_of(step) * columns
            if kind == tiles.SPARSE:
                ends = (np.clip(x[tiles.row_of(step)], left, left + columns) for x in (last, first))
                total += sum(strips[n - 1].bundles for n in np.subtract(*ends) if n)
            elif kind != tiles.NOTHING:
                total += (whole if kind == tiles.WHOLE else masked).bundles
        result[kernel] = total
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", action="append", help="v5e, v5p, v6e or tpu7x; may be given several times")
    parser.add_argument("--blocks", help="query,key,compute,square,sparse instead of the chip's own")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        chip, sizes = json.loads(options.compile)
        compile_kernels(chip, Blocks(**sizes))
        return
    *sizes, sparse = options.blocks.split(",") if options.blocks else ("",)
    blocks = Blocks(*map(int, sizes), float(sparse)) if sizes else None
    print(
        f"static: bundles of the compiler's schedule, not times; jax {jax.__version__}; 2B heads, bfloat16; blocks: {blocks or 'the default ones'}"
    )
    for chip in options.chip or ["v5e", "v6e"]:
        with one_chip(chip):
            used = blocks or choose(*HEADS, "tpu").blocks
        kernels = occupancy(chip, used)
        for kernel, parts in kernels.items():
            whole = parts[0].bundles
            for part in parts:
                figures = f"{part.bundles:>6} bundles  {part.occupancy:5.0%} MXU  {part.bundles / whole:5.2f} of whole"
                print(f"{chip:<6} {kernel:<8} {part.name:<12} {figures}")
        for kind, intervals in row_kinds(8192).items():
            of_kernels = row_bundles(kernels, used, intervals)
            print(f"{chip:<6} {kind:<20} {of_kernels} all {sum(of_kernels.values()):,} bundles a head")


if __name__ == "__main__":
    main()
