"""A plan: memory and time of each phase of a configuration on given hardware; and how it is read and written."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.storage import write_whole
from neo_jax.planning.programs import Memory
from neo_jax.planning.roofline import Roofline


@dataclasses.dataclass(frozen=True)
class SentArray:
    """The collectives of one kind, shape and set of axes in a step.

    Attributes:
      kind, axes, shape, count, asynchronous: as in planning.collectives.Collective.
      bytes, seconds: totals of these collectives on one device.
    """

    kind: str
    axes: tuple[str, ...]
    shape: str
    count: int
    bytes: int
    asynchronous: bool
    seconds: float


@dataclasses.dataclass(frozen=True)
class CollectiveSum:
    """Totals of the collectives of one kind over one set of axes.

    Attributes:
      kind, axes: as in planning.collectives.Collective.
      count, bytes, seconds: totals in a step, on one device.
      hidden: share of the seconds of asynchronous collectives, which computation may hide.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int
    seconds: float
    hidden: float


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """What one phase needs, and a bound of its speed.

    Attributes:
      phase, mesh, rows_per_step, accumulate, context, remat, attention: the planned settings; `attention` names the kernel and its blocks.
      row: description of the assumed row.
      memory: bytes on one device while the phase trains.
      available: memory of a device, in bytes.
      edge: peak bytes on one device during the transition from the previous phase (planning/edges.py); 0 for the first phase.
      evaluation: peak bytes on one device while questions are answered after the phase (planning/evaluation.py); 0 if none are asked.
      evaluation_problem: why that does not fit; "" if it does.
      fits: whether `memory`, `edge` and `evaluation` fit into a device.
      error: why the step could not be compiled; "" if it could.
      useful_flops, executed_flops: FLOPs of a step on all devices.
      attention_share: share of attention in the executed FLOPs.
      busiest_context_shard: attended pairs of the busiest context shard, divided by the mean over shards.
      bound: lower bound on the time of a step.
      mfu, tokens_per_day, days: upper bounds on MFU and tokens per day, and lower bound on the days of all steps of the phase, from `bound`.
      collectives, arrays: communication of a step: totals by kind and axes, and in detail.
      seconds: time to trace, lower and compile the step on this machine.
      candidates: all plans that a search compiled, best first; the first is this plan.
    """

    phase: str
    mesh: Mapping[str, int]
    rows_per_step: int
    accumulate: int
    context: int
    remat: str
    attention: str
    row: str
    memory: Memory
    available: float
    edge: int
    fits: bool
    error: str
    useful_flops: float
    executed_flops: float
    attention_share: float
    busiest_context_shard: float
    bound: Roofline
    mfu: float
    tokens_per_day: float
    days: float
    collectives: tuple[CollectiveSum, ...]
    arrays: tuple[SentArray, ...]
    seconds: tuple[float, float, float]
    candidates: tuple[PhasePlan, ...] = ()
    evaluation: int = 0
    evaluation_problem: str = ""

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        memory = dataclasses.asdict(self.memory) | {name: values.pop(name) for name in ("available", "edge", "evaluation")}
        if not self.evaluation_problem:
            values.pop("evaluation_problem")
        candidates = [each.to_json() for each in values.pop("candidates")]
        return (
            values
            | {"mesh": dict(self.mesh), "memory": memory, "bound": dataclasses.asdict(self.bound), "seconds": list(self.seconds)}
            | {name: [_plain(each) for each in getattr(self, name)] for name in ("collectives", "arrays")}
            | ({"candidates": candidates} if candidates else {})
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PhasePlan:
        memory = dict(values["memory"])
        available, edge, evaluation = memory.pop("available"), memory.pop("edge", 0), memory.pop("evaluation", 0)
        return cls(
            **{
                **values,
                "memory": Memory(**memory),
                "available": available,
                "edge": edge,
                "evaluation": evaluation,
                "bound": Roofline(**values["bound"]),
                "collectives": tuple(CollectiveSum(**each | {"axes": tuple(each["axes"])}) for each in values["collectives"]),
                "arrays": tuple(SentArray(**each | {"axes": tuple(each["axes"])}) for each in values["arrays"]),
                "seconds": tuple(values["seconds"]),
                "candidates": tuple(cls.from_json(each) for each in values.get("candidates", ())),
            }
        )


@dataclasses.dataclass(frozen=True)
class Machine:
    """The hardware of a plan: its name, the number of devices, and the properties of each (see chips.Chip)."""

    name: str
    devices: int
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan of all phases.

    Attributes:
      config: file of the configuration.
      hardware: the hardware that was planned for.
      versions: versions of jax and jaxlib, and the compiler flags.
      assumptions: description of the assumed row of each phase.
      phases: plans of the phases, in the order of the curriculum.
      command: command line that made the plan.
    """

    config: str
    hardware: Machine
    versions: Mapping[str, str]
    assumptions: tuple[str, ...]
    phases: tuple[PhasePlan, ...]
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "hardware": dataclasses.asdict(self.hardware),
            "versions": dict(self.versions),
            "assumptions": list(self.assumptions),
            "phases": [phase.to_json() for phase in self.phases],
            "command": self.command,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        phases = tuple(PhasePlan.from_json(phase) for phase in values["phases"])
        return cls(
            values["config"], Machine(**values["hardware"]), values["versions"], tuple(values["assumptions"]), phases, values["command"]
        )


def write_plan(path: pathlib.Path, plan: Plan) -> None:
    write_whole(path, json.dumps(plan.to_json(), indent=1) + "\n")


def read_plan(path: pathlib.Path) -> Plan:
    return Plan.from_json(json.loads(path.read_text()))


def _plain(each: SentArray | CollectiveSum) -> dict[str, Any]:
    return dataclasses.asdict(each) | {"axes": list(each.axes)}
