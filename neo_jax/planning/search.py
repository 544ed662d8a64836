"""Search over mesh, rematerialisation and rows of a step: an estimate ranks all valid candidates, and the best few are compiled.

The estimated memory of one device, in bytes, is the sum of the following, with N parameters of which T train, D hidden, V vocabulary, and t tokens
on the device in a pass:

    (4 N + 12 T) / (fsdp x tensor)                                                  parameters, gradient and moments in float32
    (2 + 4) V D / tensor + 2 V D / tensor                                           output matrix, its gradient, logits of a chunk
    2 t D layers x (1 full, 2 attention, 12 dots, 60 none)                          activations that are saved for the backward pass
    2 t (12 D + 3 mlp / tensor) + 4 x keys and values of whole rows / tensor        working memory of one layer
    3,072 t                                                                         pixels

The estimated time of a step is the FLOPs at the peak rate (a third more if layers are recomputed), plus the time of collectives over one ring of
links, without overlap: three gathers of the parameters (two bytes each) along fsdp, and of keys and values along context in each layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from neo_jax import config
from neo_jax.config.phase import REMAT_POLICIES, Mesh
from neo_jax.planning.devices import Hardware
from neo_jax.sharding import mesh_problem

# Saved activations of a layer, in multiples of its hidden states; measured in programs compiled for v5p.
SAVED_ACTIVATIONS = {"full": 1, "attention": 2, "dots": 12, "none": 60}
RECOMPUTE_FACTOR = {"full": 4 / 3, "attention": 4 / 3, "dots": 1.1, "none": 1.0}  # FLOPs with recomputation over FLOPs without
USABLE_MEMORY = 0.95  # share of the memory that an estimate may fill
ACCUMULATE = (1, 2, 4, 8)  # numbers of passes that are tried


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run a phase, with its estimated memory and time.

    Attributes:
      phase: the phase with the candidate's mesh, rematerialisation, rows and passes.
      memory: estimated bytes on one device.
      seconds_per_token: estimated time of a step divided by the tokens of all devices.
    """

    phase: config.Phase
    memory: float
    seconds_per_token: float


def candidates(settings: config.Config, phase: config.Phase, hardware: Hardware, parameters: int, trained: int) -> list[Candidate]:
    """Returns all valid candidates for a phase: first those that should fit, by estimated speed, then the others, by memory.

    Args:
      parameters, trained: number of parameters, and of those that train.
    """
    found = []
    for mesh in _meshes(settings.model, phase, hardware):
        for rows, accumulate in _rows(phase, mesh):
            for remat in REMAT_POLICIES:
                tried = dataclasses.replace(phase, mesh=mesh, remat=remat, rows_per_step=rows, accumulate=accumulate)
                found.append(estimate(settings.model, tried, hardware, parameters, trained))
    limit = USABLE_MEMORY * hardware.chip.hbm_bytes
    return sorted(found, key=lambda each: (each.memory > limit, each.seconds_per_token if each.memory <= limit else each.memory))


def _meshes(model: config.Model, phase: config.Phase, hardware: Hardware) -> Iterator[Mesh]:
    """Yields the meshes that model, phase and hardware allow; sizes of all axes but `data` are powers of two."""
    devices, slices = len(hardware.devices), hardware.groups if hardware.is_tpu else 1
    sizes = [1 << i for i in range(devices.bit_length()) if devices % (1 << i) == 0]
    for tensor in sizes:
        if any(size % tensor for size in (model.heads, model.kv_heads, model.mlp, model.vocabulary)):
            continue
        for context in sizes:
            if phase.context % context or (phase.context // context < 1024 and context > 1):
                continue  # shards would be shorter than a tile of the attention kernels
            for fsdp in sizes:
                if model.hidden % fsdp or model.patch_channels % fsdp or mesh_problem(-1, fsdp, context, tensor, devices, slices):
                    continue
                yield Mesh(data=devices // (fsdp * context * tensor), fsdp=fsdp, context=context, tensor=tensor)


def _rows(phase: config.Phase, mesh: Mesh) -> Iterator[tuple[int, int]]:
    """Yields (rows of a step, passes). Rows are those of the phase, rounded up to a multiple of the row shards."""
    shards = mesh.data * mesh.fsdp
    rows = -(-phase.rows_per_step // shards) * shards
    for accumulate in ACCUMULATE:
        if rows % (shards * accumulate) == 0:
            yield rows, accumulate


def estimate(model: config.Model, phase: config.Phase, hardware: Hardware, parameters: int, trained: int) -> Candidate:
    """Returns a candidate with its estimate, by the formulas above."""
    mesh = phase.mesh
    parameter_shards, layers = mesh.fsdp * mesh.tensor, model.base_layers + model.pre_buffer_layers
    rows = phase.rows_per_step / (mesh.data * mesh.fsdp * phase.accumulate)
    tokens = rows * phase.context / mesh.context
    kv_bytes = 3 * model.head_dim * model.kv_heads * 2 / mesh.tensor  # of keys and values of a token
    memory = (4 * parameters + 12 * trained) / parameter_shards + 8 * model.vocabulary * model.hidden / mesh.tensor
    memory += 2 * tokens * model.hidden * layers * SAVED_ACTIVATIONS[phase.remat] + 3072 * tokens
    memory += 2 * tokens * (12 * model.hidden + 3 * model.mlp / mesh.tensor) + 4 * rows * phase.context * kv_bytes
    chip, ring_bandwidth = hardware.chip, 2 * hardware.chip.link_bandwidth
    all_tokens = phase.rows_per_step * phase.context
    flops = (4 * parameters + 2 * trained) * all_tokens * RECOMPUTE_FACTOR[phase.remat] / len(hardware.devices)
    sent = 3 * 2 * parameters / mesh.tensor * phase.accumulate * (mesh.fsdp > 1)
    sent += 3 * layers * rows * phase.context * kv_bytes * phase.accumulate * (mesh.context > 1)
    sent += 8 * layers * tokens * model.hidden * 2 * phase.accumulate * (mesh.tensor > 1)
    sent += 2 * 2 * trained / parameter_shards * (mesh.data > 1)
    return Candidate(phase, memory, (flops / chip.flops + sent / ring_bandwidth) / all_tokens)
