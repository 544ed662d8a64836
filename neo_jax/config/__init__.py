"""The configuration of a run, as frozen dataclasses. It is checked completely before any file or device is opened.

A configuration file defines `get_config(arg) -> ConfigDict`, which returns the sections of `Sections` (whole.py). `phases` has one section for each
phase, by name; `curriculum` lists names of phases in the order in which they are trained.
"""

from neo_jax.config.benchmark import Benchmark
from neo_jax.config.changes import differences
from neo_jax.config.fields import ConfigError
from neo_jax.config.phase import Mesh, Phase
from neo_jax.config.sections import Data, Evaluation, Model, Optimizer, Run, Tokenizer
from neo_jax.config.whole import Config, override, parse_command_line

__all__ = [
    "Benchmark",
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
