"""The configuration: what a run is, as frozen dataclasses. Everything is checked here, at once, before anything is opened.

A configuration file has `get_config(arg) -> ConfigDict` with the sections of `Config`; `phases` is a section with one section for each
phase by name, and `curriculum` the names in the order in which they are trained.
"""

from neo_jax.config.changes import differences
from neo_jax.config.fields import ConfigError
from neo_jax.config.phase import Mesh, Phase
from neo_jax.config.sections import Data, Evaluation, Model, Optimizer, Run, Tokenizer
from neo_jax.config.whole import Config, override, parse_command_line

__all__ = [
    "Config",
    "ConfigError",
    "Data",
    "Evaluation",
    "Mesh",
    "Model",
    "Optimizer",
    "Phase",
    "Run",
    "Tokenizer",
    "differences",
    "override",
    "parse_command_line",
]
