"""The collectives of a compiled program, read from its optimised HLO text.

Communication between TPU slices appears in HLO as a send to the slices' runtime, between the parts of a reduction within each slice.

Each collective counts as many times as the loops around it iterate. Its bytes are those of the whole array on one device: the result (all-gather,
all-to-all, collective-permute) or the operand (all-reduce, reduce-scatter).
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SUM_OF_SLICES, EXCHANGE_OF_SLICES = "all-reduce between slices", "exchange between slices"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-~]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-~]+) = (.*)$")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|called_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-~]+)"
)
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, shape and set of axes.

    Attributes:
      kind: one of KINDS, SUM_OF_SLICES or EXCHANGE_OF_SLICES.
      axes: mesh axes over which devices communicate, in the mesh's order.
      shape: type and shape of the largest array, such as "bf16[2048,6144]".
      bytes: bytes of one of these collectives on one device (see above).
      count: number of times that it runs in a step.
      asynchronous: whether the device computes while it runs.
      members: flat mesh indexes of the first group of devices; empty between slices, where the axis is always `data`.
    """

    kind: str
    axes: tuple[str, ...]
    shape: str
    bytes: int
    count: int
    asynchronous: bool
    members: tuple[int, ...]


@dataclasses.dataclass
class _Computation:
    """A computation of an HLO program."""

    lines: list[tuple[str, str, str, str]]  # name, type, opcode, and the text after it, of each instruction


def collectives(text: str, axis_sizes: dict[str, int]) -> list[Collective]:
    """Returns the collectives of a step, most bytes first.

    Args:
      text: HLO text of the compiled step, from compiled.as_text().
      axis_sizes: sizes of the mesh axes by name, in the mesh's order.
    """
    computations, entry = _parse(text)
    found: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for name, times, overlapped in _visits(computations, entry):
        scatters = any(opcode in ("dynamic-slice", "slice") for _, _, opcode, _ in computations[name].lines)
        for _, kind_type, opcode, rest in computations[name].lines:
            kind = opcode.removesuffix("-start")
            if opcode == "send" and "xla_megascale_runtime" in rest:
                ((shape, size),) = _shapes(kind_type)[:1]
                kind = SUM_OF_SLICES if "_xla_megascale_reduce_operation" in rest else EXCHANGE_OF_SLICES
                found[(kind, ("data",), shape, size, True, ())] += times
            if kind not in KINDS:
                continue
            members = _members(rest, axis_sizes)
            if len(members) < 2:
                continue
            if kind == "all-reduce" and "all-reduce-scatter" in name and scatters:
                kind = "reduce-scatter"  # the TPU compiler writes it as a fusion of an all-reduce and a slice
            shapes, factor = _shapes(kind_type), 1
            if opcode == "collective-permute-start":
                shapes = shapes[:1]  # (operand, result, context)
            elif opcode in ("all-gather-start", "all-to-all-start"):
                shapes = shapes[len(shapes) // 2 :]  # (operands, results)
            elif opcode == "reduce-scatter-start":
                shapes = shapes[: len(shapes) // 2]
            elif opcode == "reduce-scatter":
                factor = len(members)  # the result is a part
            size = factor * sum(bytes_ for _, bytes_ in shapes)
            largest = max(shapes, key=lambda shape: shape[1], default=("", 0))[0]
            asynchronous = overlapped or (opcode.endswith("-start") and '"is_sync":true' not in rest)
            found[(kind, _axes(members, axis_sizes), largest, size, asynchronous, members)] += times
    result = [Collective(kind, axes, shape, size, times, *rest) for (kind, axes, shape, size, *rest), times in found.items()]
    return sorted(result, key=lambda each: (-each.bytes * each.count, each.kind, each.axes, each.shape))


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    """Returns the computations of an HLO program by name, and the name of the entry computation."""
    computations: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None or not line.startswith((" ", "}")):
            if header := _COMPUTATION.match(line):
                current = computations[header[2]] = _Computation([])
                entry = header[2] if header[1] else entry
            continue
        if line.startswith("}"):
            current = None
            continue
        if match := _INSTRUCTION.match(line):
            kind_type, rest = _split_type(match[2])
            opcode, _, arguments = rest.partition("(")
            current.lines.append((match[1], kind_type, opcode.strip(), arguments))
    return computations, entry


def _split_type(text: str) -> tuple[str, str]:
    """Splits "f32[2]{0} add(%a, %b)" into ("f32[2]{0}", "add(%a, %b)"). The type of a tuple is in parentheses."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and depth == 0:
            return text[:place], text[place + 1 :]
    return text, ""


def _visits(computations: dict[str, _Computation], entry: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (computation, times that it runs in a step, whether it runs asynchronously), once for each instruction that calls it."""
    waiting = [(entry, 1, False)]
    while waiting:
        name, times, overlapped = waiting.pop()
        yield name, times, overlapped
        for instruction, _, opcode, rest in computations[name].lines:
            called = dict(_CALLED.findall(rest))
            # The TPU compiler starts a collective in one fusion, continues it in fusions that compute, and ends it in another: only the first counts.
            if instruction.startswith("async-collective-done") or "async_collective_fusion" in called.get("calls", ""):
                continue
            asynchronous = overlapped or opcode.endswith("-start") or instruction.startswith("async-collective-start")
            iterations = _iterations(rest, computations, called) if opcode == "while" else 1
            for key, value in called.items():
                if key == "condition" or (key == "to_apply" and opcode not in ("call", "call-start", "map")):
                    continue
                for callee in re.findall(r"[\w.\-~]+", value):
                    if callee in computations:
                        waiting.append((callee, times * iterations, asynchronous))


def _iterations(rest: str, computations: dict[str, _Computation], called: dict[str, str]) -> int:
    """Returns the trip count of a while loop: the compiler's annotation, else the constant in its condition, else 1."""
    if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', rest):
        return int(known[1])
    condition = computations.get(called.get("condition", "").lstrip("%"))
    if condition is None:
        return 1
    constants = {line[0]: re.match(r"(\d+)\)", line[3]) for line in condition.lines if line[2] == "constant"}
    compared = [name for line in condition.lines if line[2] == "compare" for name in re.findall(r"%?([\w.\-~]+)", line[3])[:2]]
    numbers = [int(match[1]) for name, match in constants.items() if match and (name in compared or len(constants) == 1)]
    return max(numbers[0], 1) if len(numbers) == 1 else 1


def _shapes(text: str) -> list[tuple[str, int]]:
    """Returns (type and shape such as "bf16[2,3]", bytes) of each array in an HLO type."""
    shapes = []
    for kind, sizes in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", text)):
        if kind in BYTES:
            shapes.append((f"{kind}[{sizes}]", math.prod(int(size) for size in sizes.split(",") if size) * BYTES[kind]))
    return shapes


def _members(rest: str, axis_sizes: dict[str, int]) -> tuple[int, ...]:
    """Returns the flat mesh indexes of the first group of devices of a collective."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        wanted = re.findall(r"'([^']+)'", named[2])
        places = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        return tuple(int(i) for i in places[tuple(slice(None) if name in wanted else 0 for name in sizes)].reshape(-1))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, base = ([int(i) for i in iota[n].split(",")] for n in (1, 2))
        places = np.arange(math.prod(base)).reshape(base)
        if iota[3]:
            places = places.transpose([int(i) for i in iota[3].split(",")])
        return tuple(int(i) for i in places.reshape(shape)[0])
    if explicit := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return tuple(int(i) for i in explicit[1].split(",") if i)
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return tuple(sorted((int(pairs[1]), int(pairs[2]))))
    return tuple(range(math.prod(axis_sizes.values())))  # groups are omitted if all devices take part


def _axes(members: Sequence[int], axis_sizes: dict[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which the devices with these flat indexes differ."""
    places = np.array(np.unravel_index(np.array(members), tuple(axis_sizes.values())))
    return tuple(name for name, own in zip(axis_sizes, places, strict=True) if len(set(own.tolist())) > 1)
