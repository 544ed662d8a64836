"""The decoder: maps tokens and pixels to hidden states. Other modules see its parameters as a flat dictionary of arrays.

Shape legend: B rows, L tokens, D hidden, V visual tokens of a row.

The pre-buffer and the base are two stacks of the same layer. Each runs in one scan, so compile time does not grow with depth (a phase may ask for
several layers an iteration), and the base can be frozen while the pre-buffer trains. Architecture "qwen3" is the base alone: no height and width
parts, no pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from data_pipelines.batch import Intervals, ModelInputs
from neo_jax import config
from neo_jax.attention.api import SAVED_NAMES
from neo_jax.model import variants
from neo_jax.model.computation import Computation
from neo_jax.model.embedding import lookup
from neo_jax.model.layers import Cache, Context, Layer, normal, ones, rms_norm
from neo_jax.model.patch_embedding import PatchEmbedding, normalise
from neo_jax.model.rope import rope_angles
from neo_jax.sharding import spec

Parameters = dict[str, jax.Array]  # by dotted name, e.g. "base.attention.q"; layers stacked along the first axis
Caches = dict[str, Cache]  # by stack; layers along the first axis

STACKS = ("pre_buffer", "base")
_POLICIES = jax.checkpoint_policies
_ATTENTION = _POLICIES.save_only_these_names(*SAVED_NAMES)
REMATERIALISATION: dict[str, Any] = {
    "full": None,  # saves only the input of each layer
    "attention": _ATTENTION,  # also saves the output and log-sum-exp of attention, which is then not recomputed
    "dots": _POLICIES.save_from_both_policies(
        _ATTENTION, _POLICIES.dots_with_no_batch_dims_saveable
    ),  # also the outputs of the projections
}


class Backbone(nnx.Module):
    """The NEO-ov model (architecture "neo"), or the Qwen3 that it starts from (architecture "qwen3")."""

    def __init__(self, model: config.Model, architecture: str, rngs: nnx.Rngs):
        self.model, self.spatial = model, architecture == "neo"
        self.embedding = normal(rngs, model, (model.vocabulary, model.hidden), ("vocabulary", "embed"))
        if self.spatial:
            self.patch_embedding = PatchEmbedding(model, rngs)
            if model.pre_buffer_layers:
                self.pre_buffer = self._stack(model.pre_buffer_layers, rngs)
        self.base = self._stack(model.base_layers, rngs)
        self.final_norm = ones((model.hidden,), (None,))
        if not model.tied:
            self.output = normal(rngs, model, (model.vocabulary, model.hidden), ("vocabulary", "embed"))

    def _stack(self, layers: int, rngs: nnx.Rngs) -> Layer:
        return jax.vmap(lambda split: Layer(self.model, self.spatial, split))(rngs.split(layers))

    def __call__(self, inputs: ModelInputs, computation: Computation) -> jax.Array:
        """Runs the forward pass of training; returns hidden states [B, L, D] before the final norm."""
        x_BLD = self.embed(inputs, jnp.dtype(computation.compute_dtype))

        def body(context, x_BLD, layer):
            return context.keep_others(x_BLD, layer(x_BLD, context, computation)), None

        for name, context in self._contexts(inputs.positions, inputs.intervals, inputs.visual_slot >= 0, inputs.pieces):
            one_layer: Callable[..., Any] = functools.partial(body, context)
            if computation.remat != "none":
                one_layer = jax.checkpoint(one_layer, policy=REMATERIALISATION[computation.remat])
            with jax.named_scope(name):
                x_BLD, _ = jax.lax.scan(one_layer, x_BLD, getattr(self, name), unroll=computation.unroll)
        return x_BLD

    def layer_states(self, inputs: ModelInputs, computation: Computation) -> jax.Array:
        """Returns the hidden states after every layer, [layers, B, L, D], for comparison with recorded ones."""
        x_BLD = self.embed(inputs, jnp.dtype(computation.compute_dtype))
        states = []

        def body(context, x_BLD, layer):
            x_BLD = context.keep_others(x_BLD, layer(x_BLD, context, computation))
            return x_BLD, x_BLD

        for name, context in self._contexts(inputs.positions, inputs.intervals, inputs.visual_slot >= 0, inputs.pieces):
            x_BLD, stack_states = jax.lax.scan(functools.partial(body, context), x_BLD, getattr(self, name))
            states.append(stack_states)
        return jnp.concatenate(states)

    def prefill(self, prompts: ModelInputs, computation: Computation, capacity: int) -> tuple[jax.Array, Caches]:
        """Runs the forward pass of prompts.

        Args:
          capacity: S, room of the caches: for the prompt and the tokens that will follow.

        Returns:
          Hidden states [B, L, D] before the final norm, and caches that hold the prompt's keys and values in front.
        """
        x_BLD = self.embed(prompts, jnp.dtype(computation.compute_dtype))
        room = ((0, 0), (0, capacity - x_BLD.shape[1]), (0, 0), (0, 0))

        def body(context, x_BLD, layer):
            after_BLD, cache = layer.prefill(x_BLD, context, computation)
            return context.keep_others(x_BLD, after_BLD), Cache(*(jnp.pad(x, room) for x in cache))

        caches: Caches = {}
        for name, context in self._contexts(prompts.positions, prompts.intervals, prompts.visual_slot >= 0):
            x_BLD, caches[name] = jax.lax.scan(functools.partial(body, context), x_BLD, getattr(self, name))
        return x_BLD, caches

    def step(
        self, x_BLD: jax.Array, positions: jax.Array, intervals: Intervals, computation: Computation, caches: Caches, start: jax.Array
    ) -> tuple[jax.Array, Caches]:
        """Runs the forward pass of the next few text tokens of each row, embedded, [B, L, D].

        Args:
          positions: [B, L, 3] int32: t, h, w.
          intervals: [B, L] int32 each: the interval of cache positions that each token attends to.
          caches: keys and values of earlier tokens, by stack. They are updated in place if the caller donates them.
          start: cache position of the first of these tokens.

        Returns:
          Hidden states [B, L, D] before the final norm, and the updated caches.
        """

        def body(context, carry, numbered_layer):
            # The caches are carried, not scanned over: a scan would write each layer's into another array.
            (x_BLD, caches), (number, layer) = carry, numbered_layer
            after_BLD, caches = layer.step(x_BLD, context, computation, caches, number, start)
            return (context.keep_others(x_BLD, after_BLD), caches), None

        updated: Caches = {}
        for name, context in self._contexts(positions, intervals, None, start=start):
            numbered = jnp.arange(caches[name].keys.shape[0]), getattr(self, name)
            (x_BLD, updated[name]), _ = jax.lax.scan(functools.partial(body, context), (x_BLD, caches[name]), numbered)
        return x_BLD, updated

    def embed_tokens(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Returns the embeddings [B, L, D] of tokens [B, L]."""
        return lookup(self.embedding[...], tokens, dtype)

    @jax.named_scope("embed")
    def embed(self, inputs: ModelInputs, dtype: jnp.dtype) -> jax.Array:
        """Returns token embeddings [B, L, D] in which the image tokens are replaced by visual tokens."""
        x_BLD = self.embed_tokens(inputs.tokens, dtype)
        if not self.spatial or inputs.visual.shape[1] == 0:
            return x_BLD
        visual_BVD = self.patch_embedding(normalise(inputs.visual), inputs.visual_position, dtype)
        return self.merge_visual(x_BLD, visual_BVD, inputs.visual_slot)

    def merge_visual(self, x_BLD: jax.Array, visual_BVD: jax.Array, slot_BL: jax.Array) -> jax.Array:
        """Returns x_BLD with visual tokens at the positions whose slot is not -1.

        Args:
          visual_BVD: visual tokens, in the order of the context shards of a row.
          slot_BL: index of the visual token among those of its own context shard; -1 at text tokens and padding.
        """

        def local(visual, slot):
            return jnp.take_along_axis(visual, jnp.maximum(slot, 0)[..., None], axis=1)

        hidden = spec("batch", "length", None)
        merged = jax.shard_map(local, in_specs=(hidden, spec("batch", "length")), out_specs=hidden, check_vma=False)
        return jnp.where((slot_BL >= 0)[..., None], merged(visual_BVD, slot_BL), x_BLD)

    def _contexts(
        self,
        positions: jax.Array,
        intervals: Intervals,
        is_visual: jax.Array | None,
        pieces: jax.Array | None = None,
        start: jax.Array | int = 0,
    ) -> Iterator[tuple[str, Context]]:
        """Yields name and context of each stack, in the order in which they run; the first axis of a stack's arrays counts its layers.

        Args:
          positions, intervals: of NEO-ov; `variants` changes them for other models.
          is_visual: [B, L] bool; None: no token is.
          pieces: as in ModelInputs.
          start: place of the first token among the keys, if there are no pieces.
        """
        places = variants.key_places(intervals.lo.shape[1], pieces, start)
        placed, attended = variants.varied(self.model, positions, intervals, places)
        angles = rope_angles(placed, self.model, self.spatial)
        for name in STACKS:
            if name == "pre_buffer" and self.model.pre_buffer == "encoder" and hasattr(self, name):
                of_images = variants.image_intervals(positions, intervals, is_visual, places, self.model.mask)
                changed = jnp.zeros(intervals.lo.shape, bool) if is_visual is None else is_visual
                yield name, Context(angles, of_images, None, changed)
            elif hasattr(self, name):
                yield name, Context(angles, attended, pieces)

    @jax.named_scope("final_norm")
    def apply_final_norm(self, x_BLD: jax.Array) -> jax.Array:
        """Returns the hidden states [B, L, D] that are multiplied by the output matrix."""
        return rms_norm(x_BLD, self.final_norm, self.model.norm_epsilon)

    def output_matrix(self) -> jax.Array:
        """Returns the output matrix [vocabulary, hidden]: the embedding table if the two are tied."""
        return self.embedding[...] if self.model.tied else self.output[...]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Returns float32 logits [B, L, vocabulary] of hidden states before the final norm. For short rows only: training computes them in chunks."""
        matrix = self.output_matrix().astype(x_BLD.dtype)
        out = spec("batch", "length", None)
        return jnp.einsum("bld,vd->blv", self.apply_final_norm(x_BLD), matrix, preferred_element_type=jnp.float32, out_sharding=out)


def initialise(model: config.Model, architecture: str, seed: int, names: Collection[str] | None = None) -> Parameters:
    """Returns random parameters, created sharded on the current mesh: matrices normal(0, initializer_range), norms one, biases zero.

    Args:
      names: which parameters to create; None: all. The values of a parameter do not depend on which others are created.
    """

    def create() -> Parameters:
        return {name: value for name, value in _create(model, architecture, seed)[1].items() if names is None or name in names}

    # Compiled without optimisation: the program runs once, and optimising its random number generators takes 17 s where the rest takes 3 s.
    return jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})()


def abstract(model: config.Model, architecture: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape, type and sharding (on the current mesh) of every parameter."""
    mesh = jax.sharding.get_mesh()
    shapes = jax.eval_shape(lambda: _create(model, architecture, 0)[1])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec)), shapes)


def build(model: config.Model, architecture: str, parameters: Parameters) -> Backbone:
    """Returns a Backbone that holds these arrays. Cheap, and meant to be called inside a jitted function."""
    graphs: list[nnx.GraphDef] = []

    def structure() -> Parameters:
        graph, values = _create(model, architecture, 0)
        graphs.append(graph)
        return values

    jax.eval_shape(structure)
    paths: dict[Any, Any] = {tuple(name.split(".")): nnx.Param(value) for name, value in parameters.items()}
    return nnx.merge(graphs[0], nnx.from_flat_state(paths))


def _create(model: config.Model, architecture: str, seed: int) -> tuple[nnx.GraphDef, Parameters]:
    graph, state = nnx.split(Backbone(model, architecture, nnx.Rngs(seed)))
    return graph, {".".join(map(str, path)): value[...] for path, value in nnx.to_flat_state(state)}
