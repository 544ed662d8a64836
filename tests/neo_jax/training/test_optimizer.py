"""What decays, what trains, AdamW itself, and that what is frozen costs nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.demo import get_config
from neo_jax import config
from neo_jax.config import Config
from neo_jax.model.backbone import abstract
from neo_jax.model.computation import Computation
from neo_jax.model.freezing import split, trains
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training.curriculum import abstract_state, first_state, next_state
from neo_jax.training.optimizer import decayed, initial_moments, learning_rates, round_stochastically, update
from neo_jax.training.step import TrainState, make_train_step
from tests.neo_jax.programs import equations
from tests.neo_jax.tiny_model import batch, model, on_mesh, one_pass, parameters

MODEL = model(tied=False, pre_buffer_layers=1, base_layers=2)
WIDE = model(pre_buffer_layers=0, base_layers=1, heads=8, kv_heads=4)  # its heads divide by the meshes below
OPTIMIZER = config.Optimizer(weight_decay=0.1, clip_norm=1.0)

LAYER_MATRICES = [f"attention.{name}" for name in ("q", "k", "v", "o", "q_hw", "k_hw")] + [f"mlp.{name}" for name in ("gate", "up", "down")]
LAYER_NORMS = [
    *("attention_norm", "mlp_norm", "attention.q_norm", "attention.k_norm"),
    *(f"attention.{part}_norm_{side}" for part in "qk" for side in "hw"),
]
NEW_IN_BASE = [f"attention.{name}" for name in ("q_hw", "k_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")]
PATCH = [f"patch_embedding.{name}" for name in ("patch", "patch_bias", "merge", "merge_bias")]


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def shapes():
    return abstract(MODEL, "neo")


def test_the_list_of_decayed_names(shapes):
    stacked = [f"{stack}.{name}" for stack in ("pre_buffer", "base") for name in LAYER_MATRICES]
    assert sorted(decayed(shapes)) == sorted(["embedding", "output", "patch_embedding.patch", "patch_embedding.merge", *stacked])
    spared = [f"{stack}.{name}" for stack in ("pre_buffer", "base") for name in LAYER_NORMS]
    assert sorted(set(shapes) - set(decayed(shapes))) == sorted(
        ["final_norm", "patch_embedding.patch_bias", "patch_embedding.merge_bias", *spared]
    )
    assert all(shapes[name].ndim == 2 for name in spared)  # stacked: by their dimensions they would pass for matrices


def test_the_list_of_trainable_names(shapes):
    layer = LAYER_MATRICES + LAYER_NORMS
    new = [*PATCH, *(f"pre_buffer.{name}" for name in layer), *(f"base.{name}" for name in NEW_IN_BASE)]
    assert sorted(name for name in shapes if trains(name, "new")) == sorted(new)
    everything = ["embedding", "output", "final_norm", *new, *(f"base.{name}" for name in layer if name not in NEW_IN_BASE)]
    assert sorted(name for name in shapes if trains(name, "all")) == sorted(everything)
    trainable, frozen = split(shapes, "new")
    assert sorted(trainable) == sorted(new) and trainable | frozen == shapes and not trainable.keys() & frozen.keys()


def test_every_phase_of_the_demo_trains_what_it_says():
    settings = Config.from_config_dict(get_config())
    assert [(phase.architecture, phase.trains) for phase in settings.phases[:3]] == [("qwen3", "all"), ("neo", "new"), ("neo", "all")]
    assert {phase.trains for phase in settings.phases[2:]} == {"all"}


def toy(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = {"embedding": (5, 4), "base.attention.q": (2, 4, 2, 2), "base.attention.q_norm": (2, 4), "patch_embedding.patch_bias": (4,)}
    return {name: (scale * rng.standard_normal(size)).astype(np.float32) for name, size in sizes.items()}


def test_adamw_equals_optax():
    rates = [1e-2, 5e-2, 2e-2, 1e-3]
    parameters = toy(0)
    chain = optax.chain(
        optax.clip_by_global_norm(OPTIMIZER.clip_norm),
        optax.adamw(
            lambda step: jnp.asarray(rates)[step],
            OPTIMIZER.beta1,
            OPTIMIZER.beta2,
            OPTIMIZER.epsilon,
            weight_decay=OPTIMIZER.weight_decay,
            mask={"embedding": True, "base.attention.q": True, "base.attention.q_norm": False, "patch_embedding.patch_bias": False},
        ),
    )
    our_step = jax.jit(lambda *x: update(OPTIMIZER, *x))
    expected_step = jax.jit(chain.update)
    expected, expected_state = parameters, jax.jit(chain.init)(parameters)
    ours, moments = parameters, jax.jit(lambda x: initial_moments(OPTIMIZER, x))(parameters)
    for step, rate in enumerate(rates):
        gradients = toy(step + 1, scale=3.0 if step % 2 else 0.01)  # above and below the clipping norm
        ours, moments, norm = our_step(gradients, moments, ours, np.float32(rate))
        changes, expected_state = expected_step(gradients, expected_state, expected)
        expected = {name: np.asarray(value) + np.asarray(changes[name]) for name, value in expected.items()}
        assert float(norm) == pytest.approx(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())), rel=1e-6)
        assert (norm > OPTIMIZER.clip_norm) == (step % 2 == 1)
        for name in parameters:
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=f"{name}, step {step}")


def zeros(shapes):
    return {name: jax.device_put(np.zeros(value.shape, np.float32), value.sharding) for name, value in shapes.items()}


def state_of(parameters, what: str) -> TrainState:
    trainable, frozen = split(parameters, what)
    return TrainState(trainable, frozen, initial_moments(OPTIMIZER, trainable))


def test_frozen_parameters_have_no_state_and_no_gradient(shapes):
    state = {what: jax.eval_shape(lambda what=what: state_of(zeros(shapes), what)) for what in ("new", "all")}
    rows = to_devices(one_pass(batch(2)), accumulation_axis=True)
    step = make_train_step(MODEL, Computation(), OPTIMIZER, 3)
    made = {}
    for what, each in state.items():
        size = sum(value.size * 4 for name, value in shapes.items() if trains(name, what))
        bytes_of_moments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(each.moments))
        assert bytes_of_moments == 2 * size + 4 * len(each.trainable)  # two moments, and a step count for each parameter
        made[what] = {variable.aval.shape for equation in equations(step, each, rows, np.float32(1e-3)) for variable in equation.outvars}
    assert set(state["new"].moments) == {name for name in shapes if trains(name, "new")}
    # Of a frozen stack, nothing of its parameters' shape is ever made; two base layers and one of the pre-buffer tell the stacks apart.
    for name in ("base.mlp.gate", "base.mlp.down", "base.attention.o"):
        assert shapes[name].shape in made["all"] and shapes[name].shape not in made["new"], name
    assert shapes["pre_buffer.mlp.gate"].shape in made["new"]


def test_a_parameter_unfrozen_late_starts_with_its_own_count(shapes):
    settings = Config.from_config_dict(get_config())
    settings = dataclasses.replace(settings, model=MODEL, optimizer=OPTIMIZER)
    before, after = settings.phases[1:3]
    assert (before.trains, after.trains, after.carry_optimizer) == ("new", "all", True)
    trainable, frozen = split(zeros(shapes), "new")
    kept = {name: optax.ScaleByAdamState(np.int32(7), value + 0.5, value + 0.25) for name, value in jax.device_get(trainable).items()}

    state = next_state(settings, TrainState(trainable, frozen, jax.device_put(kept)), before, after)
    assert set(state.trainable) == set(state.moments) == set(shapes) and not state.frozen
    for name, moment in state.moments.items():
        if trains(name, "new"):
            jax.tree.map(np.testing.assert_array_equal, moment, kept[name])
        else:
            assert moment.count == 0 and not np.any(moment.mu) and not np.any(moment.nu), name

    name, rate = "base.attention_norm", 0.01  # no decay: its first step is the learning rate along the gradient's sign
    one = {name: state.trainable[name]}
    after_step, moments, _ = update(OPTIMIZER, {name: jnp.full_like(one[name], -1e-4)}, {name: state.moments[name]}, one, jnp.float32(rate))
    np.testing.assert_allclose(after_step[name] - one[name], rate, rtol=1e-3)
    assert moments[name].count == 1

    fresh = next_state(settings, state, before, dataclasses.replace(after, carry_optimizer=False))
    assert all(moment.count == 0 and not np.any(moment.nu) for moment in fresh.moments.values())
    assert not state.trainable and not state.moments  # consumed


def test_schedule():
    phase = Config.from_config_dict(get_config()).phases[1]
    phase = dataclasses.replace(phase, steps=200, warmup_ratio=0.05, learning_rate=3e-3, minimum_ratio=0.2)
    rates = learning_rates(phase)
    assert rates.dtype == np.float32 and len(rates) == 200
    assert rates[0] == pytest.approx(3e-4)  # the first of ten steps of warm-up: the first step moves
    assert rates[9] == pytest.approx(3e-3)
    assert rates[104] == pytest.approx((3e-3 + 6e-4) / 2)  # half-way through the cosine
    assert rates[199] == pytest.approx(6e-4)
    assert np.all(np.diff(rates[9:]) < 0)


def test_schedule_that_is_stable_before_it_falls():
    phase = Config.from_config_dict(get_config()).phases[1]
    phase = dataclasses.replace(phase, steps=200, warmup_ratio=0.05, learning_rate=3e-3, minimum_ratio=0.2, decay_ratio=0.25)
    rates = learning_rates(phase)
    np.testing.assert_allclose(rates[:10], np.linspace(3e-4, 3e-3, 10), rtol=1e-6)
    np.testing.assert_allclose(rates[9:149], 3e-3, rtol=1e-6)  # up to the last 50 steps
    assert np.all(np.diff(rates[149:]) < 0)
    assert rates[174] == pytest.approx((3e-3 + 6e-4) / 2)  # half-way through the cosine
    assert rates[199] == pytest.approx(6e-4)
    flat = learning_rates(dataclasses.replace(phase, decay_ratio=0.0))
    np.testing.assert_allclose(flat[9:], 3e-3, rtol=1e-6)
    longest = [learning_rates(dataclasses.replace(phase, decay_ratio=ratio)) for ratio in (0.95, 0.99, 1.0)]
    assert all(np.array_equal(rates, longest[0]) for rates in longest)  # it falls from the end of the warm-up on at the earliest


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (3, 0.01), (10, 1.0)])
def test_schedule_of_short_phases(steps, warmup, decay):
    phase = Config.from_config_dict(get_config()).phases[1]
    phase = dataclasses.replace(phase, steps=steps, warmup_ratio=warmup, learning_rate=1e-3, minimum_ratio=0.1, decay_ratio=decay)
    rates = learning_rates(phase)
    assert len(rates) == steps
    assert all(0 < rate <= 1e-3 * (1 + 1e-6) for rate in rates)


def test_stochastic_rounding_is_right_on_average_and_exact_where_it_can_be():
    x = jnp.full((200_000,), 1 + 2.0**-10)  # an eighth of the way from 1 to the next bfloat16
    rounded = np.asarray(round_stochastically(x, jax.random.key(0)), np.float32)
    assert set(np.unique(rounded)) == {1.0, 1 + 2.0**-7}
    assert rounded.mean() == pytest.approx(float(x[0]), abs=5 * 2.0**-7 * np.sqrt(1 / 8 * 7 / 8 / len(x)))
    exact = jnp.array([0.0, -1.5, 3.0, -(2.0**-120), np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(np.asarray(round_stochastically(exact, jax.random.key(1)), np.float32), exact)


SMALL = dataclasses.replace(OPTIMIZER, mu_dtype="bfloat16", nu_dtype="bfloat16", parameter_dtype="bfloat16")


@pytest.mark.parametrize(
    "axes",
    [{"fsdp": 8}, pytest.param({"data": 2, "tensor": 4}, marks=pytest.mark.nightly)],
    ids=["fsdp", "data-tensor"],
)
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(SMALL, marks=pytest.mark.nightly),
        pytest.param(dataclasses.replace(OPTIMIZER, offload=True), marks=pytest.mark.nightly),
        pytest.param(dataclasses.replace(SMALL, offload=True), marks=pytest.mark.nightly),
    ],
)
def test_state_is_kept_in_the_types_and_memory_that_are_asked_for(optimizer, axes):
    """Two steps: what a step takes is what it gives, a step without labels changes nothing, and the mesh changes no rounding."""
    settings = Config.from_config_dict(get_config())
    settings = dataclasses.replace(settings, model=WIDE, optimizer=optimizer)
    phase = settings.phases[2]
    values = {}
    for sizes in ({"devices": jax.devices()[:1]}, axes):
        mesh = make_mesh(**sizes)
        with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
            state = first_state(settings, on_mesh(WIDE, "qwen3", parameters(WIDE, "qwen3", 0)))
            expected = abstract_state(settings, dataclasses.replace(phase, architecture="qwen3"), mesh)
            step = make_train_step(WIDE, Computation("qwen3"), optimizer, 3)
            rows = one_pass(batch(8, pixels=False))
            for _ in range(2):
                assert described(state) == described(expected)
                state, _ = step(state, to_devices(rows, accumulation_axis=True), np.float32(1e-2))
            before = jax.device_get(state)
            rows = rows._replace(loss_weights=np.zeros_like(rows.loss_weights))
            state, _ = step(state, to_devices(rows, accumulation_axis=True), np.float32(1e-2))
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
            values[len(mesh.devices.flat)] = before.trainable
    for name, value in values[1].items():
        same = np.abs(values[8][name].astype(np.float32) - value.astype(np.float32)) <= 1e-5
        # With other random bits about half of the bfloat16 values would differ; a gradient that rounds otherwise tips a few.
        assert same.mean() > (0.8 if optimizer.parameter_dtype == "bfloat16" else 0.99), name


def described(state):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.spec, x.sharding.memory_kind or "device"), state)
