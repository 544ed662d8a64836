"""Which mesh, rematerialisation and number of rows to try: an estimate ranks everything legal, and the best few are compiled.

The estimate of memory on one device, in bytes, with N parameters of which T train, D hidden, V vocabulary, t tokens on the device in a pass:

    4 N + 12 T over fsdp x tensor                                                   parameters, gradient and moments in float32
    (2 + 4) V D / tensor + 2 V D / tensor                                           output matrix, its gradient, logits of a chunk
    2 t D layers x (1 full, 2 attention, 12 dots, 60 none)                           what the backward pass is handed
    2 t (12 D + 3 mlp / tensor) + 4 x keys and values of whole rows / tensor        what one layer works on
    3,072 t                                                                         pixels

and of the time of a step: FLOPs at the peak, a third more where layers are computed again, plus three gathers of the parameters (two bytes each)
along fsdp and keys and values along context in each layer, over one ring of wires, of which nothing is hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from neo_jax import config
from neo_jax.config.phase import REMAT_POLICIES, Mesh
from neo_jax.planning.devices import Hardware
from neo_jax.sharding import mesh_problem

KEPT = {"full": 1, "attention": 2, "dots": 12, "none": 60}  # hidden states of a layer that the backward pass is handed: as compiled for v5p
AGAIN = {"full": 4 / 3, "attention": 4 / 3, "dots": 1.1, "none": 1.0}  # FLOPs with what is computed again
ROOM = 0.95  # of the memory that an estimate may fill
PASSES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A candidate: how a phase is run, and its estimated memory and time.

    Attributes:
      phase: with its mesh, rematerialisation, rows and passes.
      memory: bytes of one device.
      seconds_per_token: of the whole machine.
    """

    phase: config.Phase
    memory: float
    seconds_per_token: float


def candidates(settings: config.Config, phase: config.Phase, hardware: Hardware, parameters: int, trained: int) -> list[Candidate]:
    """All legal ways to run a phase, those that should fit first, then by estimated speed.

    Args:
      parameters, trained: numbers of them.
    """
    found = []
    for mesh in _meshes(settings.model, phase, hardware):
        for rows, accumulate in _rows(phase, mesh):
            for remat in REMAT_POLICIES:
                tried = dataclasses.replace(phase, mesh=mesh, remat=remat, rows_per_step=rows, accumulate=accumulate)
                found.append(estimate(settings.model, tried, hardware, parameters, trained))
    limit = ROOM * hardware.chip.hbm_bytes
    return sorted(found, key=lambda each: (each.memory > limit, each.seconds_per_token if each.memory <= limit else each.memory))


def _meshes(model: config.Model, phase: config.Phase, hardware: Hardware) -> Iterator[Mesh]:
    devices, slices = len(hardware.devices), hardware.groups if hardware.is_tpu else 1
    sizes = [1 << i for i in range(devices.bit_length()) if devices % (1 << i) == 0]
    for tensor in sizes:
        if any(size % tensor for size in (model.heads, model.kv_heads, model.mlp, model.vocabulary)):
            continue
        for context in sizes:
            if phase.context % context or (phase.context // context < 1024 and context > 1):
                continue  # shards below a tile of the kernels
            for fsdp in sizes:
                if model.hidden % fsdp or model.patch_channels % fsdp or mesh_problem(-1, fsdp, context, tensor, devices, slices):
                    continue
                yield Mesh(data=devices // (fsdp * context * tensor), fsdp=fsdp, context=context, tensor=tensor)


def _rows(phase: config.Phase, mesh: Mesh) -> Iterator[tuple[int, int]]:
    """(rows of a step, passes): the phase's own where they divide, else the next that do."""
    shards = mesh.data * mesh.fsdp
    rows = -(-phase.rows_per_step // shards) * shards
    for accumulate in PASSES:
        if rows % (shards * accumulate) == 0:
            yield rows, accumulate


def estimate(model: config.Model, phase: config.Phase, hardware: Hardware, parameters: int, trained: int) -> Candidate:
    """The estimate of one candidate, by the formulas above."""
    mesh = phase.mesh
    spread, layers = mesh.fsdp * mesh.tensor, model.base_layers + model.pre_buffer_layers
    rows = phase.rows_per_step / (mesh.data * mesh.fsdp * phase.accumulate)
    tokens = rows * phase.context / mesh.context
    head = 3 * model.head_dim * model.kv_heads * 2 / mesh.tensor  # bytes of keys and values of a token
    memory = (4 * parameters + 12 * trained) / spread + 8 * model.vocabulary * model.hidden / mesh.tensor
    memory += 2 * tokens * model.hidden * layers * KEPT[phase.remat] + 3072 * tokens
    memory += 2 * tokens * (12 * model.hidden + 3 * model.mlp / mesh.tensor) + 4 * rows * phase.context * head
    chip, wires = hardware.chip, 2 * hardware.chip.link_bandwidth
    all_tokens = phase.rows_per_step * phase.context
    flops = (4 * parameters + 2 * trained) * all_tokens * AGAIN[phase.remat] / len(hardware.devices)
    sent = 3 * 2 * parameters / mesh.tensor * phase.accumulate * (mesh.fsdp > 1)
    sent += 3 * layers * rows * phase.context * head * phase.accumulate * (mesh.context > 1)
    sent += 8 * layers * tokens * model.hidden * 2 * phase.accumulate * (mesh.tensor > 1)
    sent += 2 * 2 * trained / spread * (mesh.data > 1)
    return Candidate(phase, memory, (flops / chip.flops + sent / wires) / all_tokens)
