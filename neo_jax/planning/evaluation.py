"""Memory at the end of a phase: what one device holds while held-out questions and benchmarks are answered."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batch import ModelInputs, batch_spec, map_arrays
from data_pipelines.documents import Lengths
from neo_jax import config
from neo_jax.chips import GIB
from neo_jax.inference.batches import STEP, Shape, prompt_batches
from neo_jax.inference.generate import Program, decode, prefill
from neo_jax.inference.sampling import GREEDY, RowSampling, of_rows
from neo_jax.model.computation import Computation
from neo_jax.planning.devices import Hardware
from neo_jax.planning.edges import sizes_of
from neo_jax.planning.programs import GPU_OPTIONS, needed_bytes
from neo_jax.sharding import batch_sharding, make_mesh, row_shards, spec
from neo_jax.training.curriculum import abstract_state, phase_mesh


def evaluation_bytes(settings: config.Config, phase: config.Phase, hardware: Hardware) -> tuple[int, str]:
    """Returns the largest number of bytes that one device holds while questions are answered after a phase, and why it does not fit ("": it does).

    The longest prompts that a row of the phase holds, as many as evaluation.tokens allows at a time: the state of training stays where it is,
    the parameters are there a second time if the mesh of the answers is another one, and the programs that read prompts and write answers are
    compiled.
    """
    training = abstract_state(settings, phase, phase_mesh(phase, hardware.devices))
    mesh = make_mesh(data=-1, fsdp=phase.mesh.fsdp, tensor=phase.mesh.tensor, devices=hardware.devices)
    with jax.set_mesh(mesh):
        parameters = abstract_state(settings, phase, mesh).parameters
        shape, answer = longest(settings, phase)
        prompts = _prompts(shape)
        program = Program(settings.model, Computation.of(phase))
        room = shape.length + answer
        held = sum(sizes_of(training.parameters).values()) + sum(sizes_of(training.moments).values())
        same = phase_mesh(phase, hardware.devices) == mesh
        copied = 0 if same else sum(sizes_of(parameters).values())
        sampling = _sampling(shape.rows)
        reading = cast(Any, prefill).lower(program, parameters, prompts, sampling, room)
        state = jax.tree.map(_placed, jax.eval_shape(lambda *given: prefill(program, *given, room), parameters, prompts, sampling))
        writing = cast(Any, decode).lower(program, parameters, state, jax.ShapeDtypeStruct((), jnp.int32))
        options = {} if hardware.is_tpu else GPU_OPTIONS
        peaks = [_beside_parameters(lowered, options, sum(sizes_of(parameters).values())) for lowered in (reading, writing)]
    jax.clear_caches()
    peak = held + copied + max(peaks)
    if peak <= hardware.chip.hbm_bytes:
        return peak, ""
    return peak, (
        f"answering questions after it needs {peak / GIB:.1f} of {hardware.chip.hbm_bytes / GIB:.1f} GiB, {max(peaks) / GIB:.1f} of it for "
        f"{shape.rows} prompts of {shape.length:,} tokens: lower evaluation.tokens ({settings.evaluation.tokens:,})"
    )


def longest(settings: config.Config, phase: config.Phase) -> tuple[Shape, int]:
    """Returns the shape of a full batch of the longest prompts of a phase on the current mesh, and the room of each answer."""
    answer = settings.evaluation.answer_tokens
    length = max(STEP, (phase.context - answer) // STEP * STEP)
    many = max(row_shards(), settings.evaluation.tokens // (length + answer))
    prompts = [Lengths(length, min(phase.visual_tokens, length), phase.images)] * many
    return prompt_batches(prompts, answer, settings.evaluation.tokens, row_shards())[0].shape, answer


def _prompts(shape: Shape) -> ModelInputs:
    fields = batch_spec(shape.rows, shape.length, shape.visual_tokens).inputs
    shapes = map_arrays(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fields)
    shardings = batch_sharding(shapes, accumulation_axis=False)
    placed = jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings)
    return cast(ModelInputs, placed)


def _sampling(rows: int) -> RowSampling:
    sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), spec("batch"))
    shapes = (jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=sharding) for x in of_rows([GREEDY] * rows))
    return RowSampling(*cast(Any, shapes))


def _placed(x: Any) -> Any:
    """Returns an output's shape with the sharding that its type names; without one it is whole on every device."""
    sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), x.sharding.spec if x.sharding else spec())
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _beside_parameters(lowered: Any, options: dict[str, Any], parameters: int) -> int:
    """Returns the bytes that a program needs beside its parameters: other arguments, results and temporaries."""
    try:
        analysis = lowered.compile(options).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return max(0, needed - parameters)
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    arguments = analysis.argument_size_in_bytes - parameters
    return int(max(0, arguments) + outputs + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes)
