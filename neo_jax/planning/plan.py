"""A plan: what each phase of a configuration needs on given hardware; its reader and its writer."""

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
      bytes, seconds: of all of them, on one device.
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
    """The collectives of one kind over one set of axes, summed up; `hidden` is the share of their seconds that computation hides."""

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
      phase, mesh, rows_per_step, accumulate, context, remat, attention: what was planned; `attention` names the kernel and its blocks.
      row: the assumed row, in words.
      memory: bytes on one device while the phase trains.
      available: bytes that a device has.
      edge: most bytes on one device while the state is handed over from the phase before (planning/edges.py); 0 for the first phase.
      fits: whether training and the edge fit.
      error: why the step could not be compiled; "" where it could.
      useful_flops, executed_flops: of a step on all devices.
      attention_share: of the executed FLOPs.
      busiest_context_shard: its attended pairs over the mean.
      bound: seconds of a step, and what bounds it.
      mfu, tokens_per_day, days: that the bound allows; `days` for all steps of the phase.
      collectives, arrays: what is sent in a step, summed up by kind and axes, and one by one.
      seconds: to trace, lower and compile the step here.
      candidates: all that a search tried, best first; the first is this plan.
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

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        memory = dataclasses.asdict(self.memory) | {"available": values.pop("available"), "edge": values.pop("edge")}
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
        available, edge = memory.pop("available"), memory.pop("edge", 0)
        return cls(
            **{
                **values,
                "memory": Memory(**memory),
                "available": available,
                "edge": edge,
                "bound": Roofline(**values["bound"]),
                "collectives": tuple(CollectiveSum(**each | {"axes": tuple(each["axes"])}) for each in values["collectives"]),
                "arrays": tuple(SentArray(**each | {"axes": tuple(each["axes"])}) for each in values["arrays"]),
                "seconds": tuple(values["seconds"]),
                "candidates": tuple(cls.from_json(each) for each in values.get("candidates", ())),
            }
        )


@dataclasses.dataclass(frozen=True)
class Machine:
    """The hardware of a plan: its name, its devices, and what each can do (chips.Chip)."""

    name: str
    devices: int
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole plan.

    Attributes:
      config: the configuration's file.
      hardware: that it was made for.
      versions: of jax and jaxlib, and the compiler's flags.
      assumptions: the assumed row of each phase, in words.
      phases: in the order of the curriculum.
      command: that made it.
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
