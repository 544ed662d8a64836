"""The decoder: tokens and pixels in, hidden states out. Parameters as a flat dictionary of arrays at the border.

The pre-buffer and the base are two stacks with the same layer, one scan each: compile time does not grow with depth, and the base can be frozen
while the pre-buffer trains. As architecture "qwen3" the model is the base alone, without height and width parts and without pixels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from neo_jax import config
from neo_jax.attention.api import SAVED_NAMES
from neo_jax.model.embedding import lookup
from neo_jax.model.layers import Cache, Layer, normal, ones, rms_norm, rope_angles
from neo_jax.model.patch_embedding import PatchEmbedding, normalise
from neo_jax.sharding import spec

Parameters = dict[str, jax.Array]  # by dotted name, e.g. "base.attention.q"; layers stacked along the first axis

STACKS = ("pre_buffer", "base")

_POLICIES = jax.checkpoint_policies
_ATTENTION = _POLICIES.save_only_these_names(*SAVED_NAMES)
REMATERIALISATION: dict[str, Any] = {
    "full": None,  # keep a layer's input only
    "attention": _ATTENTION,  # and the output and log-sum-exp of attention, which is then computed once
    "dots": _POLICIES.save_from_both_policies(_ATTENTION, _POLICIES.dots_with_no_batch_dims_saveable),  # and the results of the projections
}


class Backbone(nnx.Module):
    """NEO-ov, or the Qwen3 it starts from."""

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

    def words(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Embeddings [B, L, D] of tokens [B, L]."""
        return lookup(self.embedding[...], tokens, dtype)

    def embed(self, batch: dict[str, jax.Array], dtype: jnp.dtype) -> jax.Array:
        """Token embeddings, with visual tokens in their slots. Arrays as in data_pipelines.loading.shards.shard_fields; returns [B, L, D]."""
        x = self.words(batch["tokens"], dtype)
        if not self.spatial or batch["visual"].shape[1] == 0:
            return x
        visual = self.patch_embedding(normalise(batch["visual"]), batch["visual_position"], dtype)
        return self.place(x, visual, batch["visual_slot"])

    def place(self, x: jax.Array, visual: jax.Array, slot: jax.Array) -> jax.Array:
        """Puts visual [B, V, D] into x [B, L, D] where slot [B, L] is not -1. A slot counts the visual tokens of its own context shard."""

        def local(visual, slot):
            return jnp.take_along_axis(visual, jnp.maximum(slot, 0)[..., None], axis=1)

        hidden = spec("batch", "length", None)
        placed = jax.shard_map(local, in_specs=(hidden, spec("batch", "length")), out_specs=hidden, check_vma=False)
        return jnp.where((slot >= 0)[..., None], placed(visual, slot), x)

    def decode(
        self,
        x: jax.Array,
        positions: jax.Array,
        attend: jax.Array,
        remat: str = "none",
        caches: dict[str, Cache] | None = None,
        start: jax.Array | int = 0,
        every_layer: bool = False,
        attention: str = "auto",
        pieces: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Cache], list[jax.Array]]:
        """Runs all layers.

        Args:
          x: [B, L, D].
          positions: [B, L, 3] int32, t, h, w.
          attend: [B, L, 2] int32, the interval of keys each token sees: of this row, or of the cache where one is given.
          remat: what the backward pass recomputes: "none", or a name in REMATERIALISATION.
          caches: keys and values of earlier tokens for each stack; written at `start`.
          start: position in the cache of the first of these tokens.
          attention, pieces: as in attention.api.interval_attention.
          every_layer: also return the hidden states after each layer, [layers, B, L, D] per stack.

        Returns:
          Hidden states before the last norm; the updated caches (empty without `caches`); the states after each layer (empty unless asked).
        """
        at = rope_angles(positions, self.model, self.spatial)
        new_caches: dict[str, Cache] = {}
        states: list[jax.Array] = []

        def body(x, layer_and_cache):
            layer, cache = layer_and_cache
            x, cache = layer(x, at, attend, cache, start, attention, pieces)
            return x, (cache if caches is not None else None, x if every_layer else None)

        if remat != "none":
            body = jax.checkpoint(body, policy=REMATERIALISATION[remat])
        for name in STACKS:
            if hasattr(self, name):
                x, (cache, state) = jax.lax.scan(body, x, (getattr(self, name), caches[name] if caches is not None else None))
                if caches is not None:
                    new_caches[name] = cache
                if every_layer:
                    states.append(state)
        return x, new_caches, states

    def normed(self, x: jax.Array) -> jax.Array:
        """The last norm: what the output matrix reads."""
        return rms_norm(x, self.final_norm, self.model.norm_epsilon)

    def output_matrix(self) -> jax.Array:
        """[vocabulary, hidden]; the embedding itself where tied."""
        return self.embedding[...] if self.model.tied else self.output[...]

    def logits(self, x: jax.Array) -> jax.Array:
        """float32 logits [B, L, vocabulary] of hidden states [B, L, D] before the last norm. For short rows: training uses chunks."""
        matrix = self.output_matrix().astype(x.dtype)
        out = spec("batch", "length", None)
        return jnp.einsum("bld,vd->blv", self.normed(x), matrix, preferred_element_type=jnp.float32, out_sharding=out)


def initialise(model: config.Model, architecture: str, seed: int) -> Parameters:
    """Random parameters, created sharded on the mesh that is set: matrices normal(0, initializer_range), norms one, biases zero."""
    # Unoptimised: this program runs once, and optimising its random number generators takes five times as long as the rest (17 s and 3 s).
    return jax.jit(lambda: _create(model, architecture, seed)[1], compiler_options={"xla_backend_optimization_level": 0})()


def abstract(model: config.Model, architecture: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, type and sharding (on the mesh that is set) of every parameter."""
    mesh = jax.sharding.get_mesh()
    shapes = jax.eval_shape(lambda: _create(model, architecture, 0)[1])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec)), shapes)


def build(model: config.Model, architecture: str, parameters: Parameters) -> Backbone:
    """The module around these arrays; cheap, and meant to be called inside a jitted function."""
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
