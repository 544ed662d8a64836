"""Settings that are chosen as results come: a sweep file defines SEARCH in place of sweep(). Optuna proposes them (requirements-search.txt).

Nothing of Optuna is kept: each proposal comes from a study in memory that is built from the runs so far, so a search goes on where its list ends.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neo_jax.config import ConfigError
from neo_jax.sweeps.choices import Settings
from neo_jax.sweeps.dimensions import Choice, Dimension, Integers, LogUniform, dimension_problems, holds, is_whole
from neo_jax.sweeps.rules import quantity_problems

ASKS = 20  # proposals in a row that are not accepted, after which there is nothing new


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What is sought: settings with the least quantity at the last step.

    Attributes:
      space: for each dotted key, what it may be.
      trials: runs in all.
      quantity: as for rules (neo_jax/sweeps/rules.py).
      seed: of the proposals, not of the runs.
    """

    space: Mapping[str, Dimension]
    trials: int
    quantity: str = "heldout"
    seed: int = 0

    def problems(self) -> list[str]:
        if not isinstance(self.space, Mapping) or not self.space or not all(isinstance(key, str) for key in self.space):
            return ["space must be a dictionary by dotted key, with at least one"]
        trials = [] if is_whole(self.trials) and self.trials >= 1 else [f"trials is {self.trials!r}, must be a whole number of at least 1"]
        seed = [] if is_whole(self.seed) else [f"seed is {self.seed!r}, must be a whole number"]
        wrong = [f"{key}: {problem}" for key, each in self.space.items() for problem in dimension_problems(each)]
        return [*wrong, *trials, *seed, *quantity_problems(self.quantity, ())]

    def ends(self) -> list[Settings]:
        """Returns settings with the ends of each range and each choice, the other keys at their first: what must be usable."""
        ends = {key: each.values if isinstance(each, Choice) else (each.low, each.high) for key, each in self.space.items()}
        first = {key: values[0] for key, values in ends.items()}
        return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]

    def holds(self, settings: Settings) -> bool:
        """Returns whether settings lie in the space."""
        return settings.keys() == self.space.keys() and all(holds(self.space[key], value) for key, value in settings.items())


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run as a search sees it.

    Attributes:
      settings: in the space.
      over: whether it has ended.
      value: the quantity; None: it goes on, or it has failed or did not measure it.
    """

    settings: Settings
    over: bool
    value: float | None


def check_installed() -> None:
    """Raises ConfigError if Optuna is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError([f"SEARCH needs Optuna ({error}): pip install --no-deps -r requirements-search.txt"]) from None


def ask[Accepted](search: Search, trials: Sequence[Trial], accept: Callable[[Settings], Accepted | None]) -> Accepted | None:
    """Asks Optuna's TPE sampler for the next settings, the same for the same trials.

    Args:
      search: what is sought.
      trials: so far, in the order of the list. Those that go on count as bad where others are chosen near them; failed ones count for nothing.
      accept: what becomes of settings; None refuses them, and the next are asked for.

    Returns:
      What `accept` returned; None if it refused ASKS times.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(each) for key, each in search.space.items()}
    # A study is built anew for each proposal: the same seed would draw the same first settings each time.
    sampler = optuna.samplers.TPESampler(seed=random.Random(f"{search.seed} {len(trials)}").getrandbits(32), constant_liar=True)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    states = optuna.trial.TrialState
    for each in trials:
        state = states.RUNNING if not each.over else states.FAIL if each.value is None else states.COMPLETE
        value = each.value if state == states.COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, value=value, params=each.settings, distributions=space))
    for _ in range(ASKS):
        proposed = study.ask(space).params
        if (accepted := accept({key: proposed[key] for key in space})) is not None:
            return accepted
    return None


def _distribution(each: Dimension) -> Any:
    from optuna import distributions

    match each:
        case Choice():
            return distributions.CategoricalDistribution(each.values)
        case Integers():
            return distributions.IntDistribution(each.low, each.high)
        case _:
            return distributions.FloatDistribution(each.low, each.high, log=isinstance(each, LogUniform))
