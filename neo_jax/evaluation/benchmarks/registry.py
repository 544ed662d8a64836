"""All benchmarks, and the presets by which they are asked."""

from __future__ import annotations

from typing import NamedTuple

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks.declaration import Benchmark
from neo_jax.evaluation.benchmarks.images import IMAGES
from neo_jax.evaluation.benchmarks.spatial import SPATIAL
from neo_jax.evaluation.benchmarks.videos import VIDEOS
from neo_jax.inference.sampling import GREEDY, Sampling

BENCHMARKS = {each.name: each for each in (*IMAGES, *VIDEOS, *SPATIAL)}
SYSTEM = "Reason step by step."
SPATIAL_TOKENS = 4096


class Asking(NamedTuple):
    """How a benchmark's questions are put.

    Attributes:
      system: text of the system turn; "": there is none.
      pixels: smallest and largest number of pixels of a picture after resizing.
      sampling: how tokens are drawn.
      max_tokens: most tokens of an answer.
      quirks: whether the official kit's quirks are kept, in reading rows and media and in scoring.
    """

    system: str
    pixels: tuple[int, int]
    sampling: Sampling
    max_tokens: int
    quirks: bool


def official(benchmark: Benchmark) -> Asking:
    """The official evaluation kit of NEO-ov, with the quirks that change published numbers."""
    if benchmark.spatial:
        return Asking("", benchmark.pixels, GREEDY, SPATIAL_TOKENS, True)
    return Asking(SYSTEM, benchmark.pixels, Sampling(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05), 16_384, True)


def fixed(benchmark: Benchmark) -> Asking:
    """The same without what is plainly a defect of the official kit."""
    return official(benchmark)._replace(quirks=False)


def lmms_eval(benchmark: Benchmark) -> Asking:
    """The settings that lmms-eval has for NEO-ov, with the prompts of `fixed`."""
    pixels = benchmark.pixels if benchmark.spatial else (65_536, 4_194_304)
    return Asking("" if benchmark.spatial else SYSTEM, pixels, GREEDY, SPATIAL_TOKENS, False)


PRESETS = {"official": official, "fixed": fixed, "lmms_eval": lmms_eval}


def benchmark_named(name: str) -> Benchmark:
    """Returns a benchmark. Raises DataError if there is none of that name."""
    if name not in BENCHMARKS:
        raise DataError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
