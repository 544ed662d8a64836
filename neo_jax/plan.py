"""Plans each phase of a configuration on absent hardware: its memory, and a lower bound on its time.

    python -m neo_jax.plan --config=configs/neo_ov_2b.py --hardware=v5p:4x4x4 [--config.section.key=value ...]

`--help` lists the flags.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from neo_jax.exit_codes import CONFIGURATION, DONE

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is executed; the compilers are called by name
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # programs for absent devices cannot be loaded from the cache

import jax.numpy as jnp
from rich.console import Console

from data_pipelines.storage import write_whole
from neo_jax import config
from neo_jax.attention.api import UnsupportedAttentionError
from neo_jax.config import Config, ConfigError, parse_command_line
from neo_jax.config.fields import Between, OptionalPath, Positive, Text, nearest
from neo_jax.config.flags import Alone, Command, read_flags
from neo_jax.model.computation import Computation
from neo_jax.planning import costs, roofline, search
from neo_jax.planning.collectives import Collective
from neo_jax.planning.devices import Hardware, HardwareError, open_hardware
from neo_jax.planning.edges import edge_bytes
from neo_jax.planning.evaluation import evaluation_bytes
from neo_jax.planning.plan import CollectiveSum, Machine, PhasePlan, Plan, SentArray, write_plan
from neo_jax.planning.programs import Program, compile_step
from neo_jax.planning.show import memory_chart, show
from neo_jax.sharding import make_mesh
from neo_jax.training import flops
from neo_jax.training.curriculum import abstract_state, phase_mesh, phase_problems

DAY = 86_400
FACTS = ("flops", "hbm_bytes", "hbm_bandwidth", "link_bandwidth", "slow_bandwidth")  # properties of a chip that a plan records


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags besides --config.

    Attributes:
      hardware: CHIP:SHAPE. v5e:16x16, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4 (chips), 2*v5p:4x4x4 (slices), h200:8x8, h100:8x8 (nodes x GPUs of a node).
      phases: names of the phases to plan; without it, all phases of the curriculum.
      documents: number of documents in the assumed row, of equal length.
      search: searches mesh, rematerialisation and rows of each phase: an estimate ranks candidates, the best are compiled until N
        fit (4 if no value is given).
      json: file to write the plan to, as JSON.
      chart: file to write a chart of memory by phase to (.svg).
    """

    hardware: Text
    phases: tuple[Text, ...] = ()
    documents: Positive = 8
    search: Annotated[int, Between(1), Alone(4)] = 0
    json: OptionalPath = ""
    chart: OptionalPath = ""


COMMAND = Command(
    "neo_jax.plan",
    "Plans each phase of a configuration on absent hardware: compiles its real training step, and reports memory and a lower bound on its time. "
    'TPUs need libtpu, GPUs jax[cuda13]: `make plan ARGS="--config=... --hardware=..."` installs either. Compiler flags are read from the '
    "environment (LIBTPU_INIT_ARGS, XLA_FLAGS).",
    "--config=configs/neo_ov_2b.py --hardware=v5p:4x4x4",
    (DONE, CONFIGURATION),
)


def make_plan(settings: Config, flags: Flags, tell: Callable[[str], None], file: str = "") -> Plan:
    """Plans the phases of a configuration.

    Args:
      settings: the configuration.
      flags: the command line.
      tell: called with each progress message.
      file: name of the configuration file, for the plan.

    Raises:
      ConfigError: a phase is unknown, or its mesh does not fit the hardware.
      HardwareError: the hardware cannot be planned for.
    """
    names = [phase.name for phase in settings.phases]
    if unknown := [name for name in flags.phases if name not in names]:
        raise ConfigError([f"--phases: no phase {name!r} in the curriculum ({', '.join(names)}){nearest(name, names)}" for name in unknown])
    settings = dataclasses.replace(settings, phases=tuple(p for p in settings.phases if not flags.phases or p.name in flags.phases))
    hardware = open_hardware(flags.hardware)
    slices = hardware.groups if hardware.is_tpu else 1
    if not flags.search and (problems := phase_problems(settings, len(hardware.devices), slices)):
        raise ConfigError(problems)
    phases: list[PhasePlan] = []
    compiled: dict[Any, Program] = {}
    before: config.Phase | None = None
    for number, phase in enumerate(settings.phases, 1):
        where = f"{phase.name} ({number} of {len(settings.phases)})"
        tried = [phase]
        if flags.search:
            total, trained = _sizes(settings, phase, hardware)
            tried = [each.phase for each in search.candidates(settings, phase, hardware, total, trained)[: 2 * flags.search]]
        results: list[tuple[PhasePlan, config.Phase]] = []
        for attempt, each in enumerate(tried, 1):
            if flags.search and sum(result.fits for result, _ in results) == flags.search:
                break
            key = _program_key(each)
            if key not in compiled:
                what = f"{where}, candidate {attempt}" if flags.search else where
                tell(f"{what}: compiling for {len(hardware.devices)} devices, {_mesh_text(each)}, {each.remat}, {each.rows_per_step} rows")
                compiled[key] = compile_step(settings, each, hardware)
                tell(f"{what}: compiled in {sum(compiled[key].seconds):.0f} s")
            results.append((_describe(settings, each, before, hardware, compiled[key], flags.documents), each))
        results.sort(key=lambda result: (not result[0].fits, -result[0].tokens_per_day if result[0].fits else result[0].memory.peak))
        tell(f"{where}: compiling the programs that answer questions")
        best = _with_evaluation(settings, *results[0], hardware)
        phases.append(dataclasses.replace(best, candidates=tuple(result for result, _ in results)) if flags.search else best)
        before = phase
    return Plan(
        config=file or "configuration",
        hardware=Machine(hardware.text, len(hardware.devices), **{name: getattr(hardware.chip, name) for name in FACTS}),
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib")} | {"compiler flags": _compiler_flags()},
        assumptions=tuple(f"{phase.phase}: {phase.row}" for phase in phases),
        phases=tuple(phases),
    )


def _with_evaluation(settings: Config, plan: PhasePlan, phase: config.Phase, hardware: Hardware) -> PhasePlan:
    """Returns the plan with the memory of answering questions after the phase; unchanged if none are asked."""
    if not settings.data.heldout and not settings.evaluation.benchmarks:
        return plan
    evaluation, problem = evaluation_bytes(settings, phase, hardware)
    return dataclasses.replace(plan, evaluation=evaluation, evaluation_problem=problem, fits=plan.fits and not problem)


def _program_key(phase: config.Phase) -> Any:
    """Returns everything in a phase that its compiled program depends on."""
    return (
        Computation.of(phase),
        phase.trains,
        phase.rates,
        phase.mesh,
        phase.rows_per_step,
        phase.accumulate,
        phase.context,
        phase.visual_tokens,
    )


def _sizes(settings: Config, phase: config.Phase, hardware: Hardware) -> tuple[int, int]:
    """Returns the numbers of parameters, and of trained parameters, of a phase."""
    state = abstract_state(settings, phase, make_mesh(data=-1, devices=hardware.devices))
    return sum(x.size for x in state.parameters.values()), sum(x.size for x in state.trainable.values())


def _describe(
    settings: Config, phase: config.Phase, before: config.Phase | None, hardware: Hardware, program: Program, documents: int
) -> PhasePlan:
    row = costs.assumed_row(phase, documents)
    computed, attended = costs.busiest_pairs(row, program.kernel, program.axis_sizes["context"])
    done = costs.executed(program.jaxpr, program.axis_sizes, computed)
    model, devices, memory = settings.model, len(hardware.devices), program.memory
    mesh = phase_mesh(phase, hardware.devices)
    edge = edge_bytes(settings, before, phase, phase_mesh(before, hardware.devices), mesh) if before else 0
    state = abstract_state(settings, phase, mesh)
    shapes = {name: x.shape for name, x in state.parameters.items()}
    count = phase.rows_per_step
    useful = flops.useful(
        shapes, model.heads, model.head_dim, phase.trains, flops.RowCounts(count * phase.context, count * row.visual, count * row.pairs)
    )
    trained = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in state.trainable.values())
    share = trained * jnp.dtype(settings.optimizer.parameter_dtype).itemsize + memory.optimizer
    moved = done.bytes + 2 * share + roofline.GRADIENT_BYTES * trained * phase.accumulate
    limits = roofline.roofline(hardware, done.flops, moved, program.collectives, program.places)
    tokens = count * phase.context
    sent = [_sent(hardware, program, each) for each in program.collectives]
    return PhasePlan(
        phase=phase.name,
        mesh=dict(program.axis_sizes),
        rows_per_step=count,
        accumulate=phase.accumulate,
        context=phase.context,
        remat=phase.remat,
        attention=f"{program.kernel.name} {program.kernel.blocks}",
        row=row.text,
        memory=memory,
        available=hardware.chip.hbm_bytes,
        edge=edge,
        fits=not program.error and max(memory.peak, edge) <= hardware.chip.hbm_bytes,
        error=program.error,
        useful_flops=useful,
        executed_flops=done.flops * devices,
        attention_share=done.attention / done.flops,
        busiest_context_shard=attended * program.axis_sizes["context"] / row.pairs,
        bound=limits,
        mfu=useful / (devices * hardware.chip.flops * limits.step),
        tokens_per_day=tokens / limits.step * DAY,
        days=phase.steps * limits.step / DAY,
        collectives=_by_kind(sent),
        arrays=tuple(sent),
        seconds=program.seconds,
    )


def _sent(hardware: Hardware, program: Program, each: Collective) -> SentArray:
    members = [int(program.places[i]) for i in each.members]
    seconds = each.count * roofline.duration(hardware, each, members)
    return SentArray(each.kind, each.axes, each.shape, each.count, each.bytes * each.count, each.asynchronous, seconds)


def _by_kind(sent: Sequence[SentArray]) -> tuple[CollectiveSum, ...]:
    """Returns totals of collectives by kind and axes, longest time first."""
    groups: dict[tuple[str, tuple[str, ...]], list[SentArray]] = {}
    for each in sent:
        groups.setdefault((each.kind, each.axes), []).append(each)
    sums = []
    for (kind, axes), group in groups.items():
        seconds = sum(each.seconds for each in group)
        hidden = sum(each.seconds for each in group if each.asynchronous)
        count, size = sum(each.count for each in group), sum(each.bytes for each in group)
        sums.append(CollectiveSum(kind, axes, count, size, seconds, hidden / seconds if seconds else 0.0))
    return tuple(sorted(sums, key=lambda line: -line.seconds))


def _mesh_text(phase: config.Phase) -> str:
    return " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(phase.mesh).items() if size != 1) or "one device"


def _compiler_flags() -> str:
    """Returns the compiler flags of the environment, without the path of the CUDA wheels."""
    words = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {os.environ.get('XLA_FLAGS', '')}".split()
    return " ".join(word for word in words if not word.startswith("--xla_gpu_cuda_data_dir"))


def main(arguments: Sequence[str]) -> int:
    started = time.monotonic()
    progress = Console(stderr=True)

    def tell(text: str) -> None:
        progress.print(f"[{time.monotonic() - started:5.0f} s] {text}", markup=False, highlight=False, soft_wrap=True)

    try:
        flags, rest = read_flags(Flags, arguments, COMMAND)
        if missing := [file for file in (flags.json, flags.chart) if file and not pathlib.Path(file).absolute().parent.is_dir()]:
            raise ConfigError([f"{file}: its folder does not exist: make it first" for file in missing])
        settings = parse_command_line(rest)
        file = next(argument.partition("=")[2] for argument in rest if argument.startswith("--config="))
        plan = make_plan(settings, flags, tell, file)
    except (ConfigError, HardwareError, UnsupportedAttentionError) as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    plan = dataclasses.replace(plan, command="python -m neo_jax.plan " + " ".join(arguments))
    show(plan, Console(width=max(100, 30 + 16 * len(plan.phases))))
    if flags.json:
        write_plan(pathlib.Path(flags.json), plan)
    if flags.chart:
        write_whole(pathlib.Path(flags.chart), memory_chart(plan, open_hardware(flags.hardware).chip))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
