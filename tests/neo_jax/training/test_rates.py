"""Learning rates of groups of parameters: patterns with factors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.demo import get_config
from neo_jax import config
from neo_jax.config import Config, ConfigError
from neo_jax.sharding import make_mesh
from neo_jax.training.optimizer import initial_moments, update
from neo_jax.training.rates import pattern_problems, rate_factors

NAMES = ["base.gate", "base.q", "embedding", "pre_buffer.q"]


def settings(**changes) -> Config:
    values = get_config("smoke").to_dict()
    values["phases"]["pretrain"] |= changes
    return Config.from_config_dict(values)


def phase(*rates: str) -> config.Phase:
    return settings(rates=rates).phases[1]


def test_the_last_pattern_that_matches_counts():
    assert rate_factors(phase(), NAMES) == ()
    assert rate_factors(phase("base.*=0.1", "embedding=0.5"), NAMES) == (("base.gate", 0.1), ("base.q", 0.1), ("embedding", 0.5))
    assert rate_factors(phase("*=0.1", "*.q=2", "pre_buffer.*=1"), NAMES) == (("base.gate", 0.1), ("base.q", 2.0), ("embedding", 0.1))


@pytest.mark.parametrize("text", ["base.*", "=0.1", "base.*=", "base.*=0", "base.*=-1", "base.*=inf", "base.*=nan", "base.*=fast"])
def test_what_is_not_a_pattern_with_a_factor(text):
    with pytest.raises(ConfigError, match=r"phases.pretrain.rates: has '.*', must be PATTERN=FACTOR with a factor above 0"):
        phase(text)


def test_a_pattern_without_a_parameter_is_named():
    assert pattern_problems(settings(rates=("base.*_hw=0.1", "*=1"))) == []
    (problem,) = pattern_problems(settings(rates=("bse.*=0.1",)))
    assert problem.startswith("phases.pretrain.rates: 'bse.*' matches no parameter that the phase trains")
    (frozen,) = pattern_problems(settings(rates=("embedding=0.1",)))  # the phase trains new parameters alone
    assert "'embedding' matches no parameter that the phase trains" in frozen


def test_an_update_with_factors_is_one_with_other_rates():
    """Of the parameters that have a factor; the others change in no bit. Moments do not depend on rates."""
    optimizer = config.Optimizer(weight_decay=0.1)
    rng = np.random.default_rng(0)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        values, gradients = ({name: jnp.asarray(rng.standard_normal((4, 3)), jnp.float32) for name in NAMES} for _ in range(2))
        moments = initial_moments(optimizer, values)
        rate = jnp.float32(0.03)
        with_factors, new, _ = update(optimizer, gradients, moments, values, rate, True, {"base.q": 0.5})
        plain, plain_moments, _ = update(optimizer, gradients, moments, values, rate)
        halved, _, _ = update(optimizer, gradients, moments, values, rate * 0.5)
    for name in NAMES:
        np.testing.assert_array_equal(with_factors[name], (halved if name == "base.q" else plain)[name])
        np.testing.assert_array_equal(new[name].mu, plain_moments[name].mu)
    assert np.abs(halved["base.q"] - plain["base.q"]).max() > 1e-3


def test_factors_are_kept_in_the_configuration():
    assert Config.from_config_dict(settings(rates=("base.*=0.1",)).resolved()).phases[1].rates == ("base.*=0.1",)
    assert dataclasses.replace(phase("a=0.1")).rate_patterns() == [("a", 0.1)]
