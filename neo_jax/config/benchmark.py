"""What is asked of a checkpoint: one's own rows, or a benchmark of the field. The same keys in a configuration and on the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated

from neo_jax.config.fields import AtLeastZero, OneOf, OptionalPath, Path, Whole

METRICS = ("exact", "caseless", "relaxed", "anls", "letter", "number", "regex", "vqa")
PRESETS = ("official", "fixed", "lmms_eval")
BENCHMARKS = (
    *(
        "mmmu",
        "mmbench",
        "mmstar",
        "realworldqa",
        "seedbench_img",
        "ai2d",
        "hallusionbench",
        "pope",
        "docvqa",
        "chartqa",
        "textvqa",
        "ocrbench",
    ),
    *("video_mme", "mvbench", "lvbench", "mlvu", "longvideobench", "video_mmmu"),
    *("vsi_bench", "site_video", "site_image", "mmsi_bench", "viewspatial", "muirbench", "omnispatial", "mindcube", "embspatial", "blink"),
    *("3dsrbench", "spar_bench"),
)
OWN_TOKENS = 64  # most tokens of an answer to one's own rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions of one file.

    Attributes:
      data: the file: JSON Lines or a JSON list of one's own rows, or a benchmark's tab-separated file as the official evaluation kit reads it.
      benchmark: name of the benchmark (docs/evaluate.md lists them); without it, the file has one's own rows, which metric scores.
      media_root: folder that the media paths of the rows are relative to; without it, the file's own folder for a benchmark.
      preset: of a benchmark: official (the official kit, with the quirks that change published numbers), fixed (without its plain defects) or
        lmms_eval (lmms-eval's settings for NEO-ov).
      variant: of a benchmark: its name in the official kit's scripts, such as MVBench_32frame; without it, the first one in docs/evaluate.md.
      metric: of own rows: exact; caseless (case, blanks and a final full stop do not count); relaxed (numbers within 5%, ChartQA's); anls
        (DocVQA's); letter (of a choice); number (the last one, within tolerance); regex (what pattern finds); vqa (how many of the accepted answers
        agree).
      tolerance: of number: relative error that is accepted.
      pattern: of regex: its first group, or all of it, must be an accepted answer.
      blank: shows grey pictures instead of the rows': how much is answered without looking.
      most: largest number of rows of each family; 0: all.
      max_tokens: largest number of tokens of an answer; 0: the preset's, 64 for own rows.
      min_pixels: smallest number of pixels of a picture after resizing; 0: the preset's; of own rows, the phase's.
      max_pixels: largest number; 0: the preset's; of own rows, the phase's.
      seed: of the draws where the preset samples.
    """

    data: Path
    benchmark: Annotated[str, OneOf(("", *BENCHMARKS))] = ""
    media_root: OptionalPath = ""
    preset: Annotated[str, OneOf(PRESETS)] = "official"
    variant: str = ""
    metric: Annotated[str, OneOf(METRICS)] = "exact"
    tolerance: AtLeastZero = 0.0
    pattern: str = ""
    blank: bool = False
    most: Whole = 0
    max_tokens: Whole = 0
    min_pixels: Whole = 0
    max_pixels: Whole = 0
    seed: Whole = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.metric == "regex") != bool(self.pattern):
            yield "pattern", "belongs to metric regex, which needs it"
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"is no regular expression ({error})"
        if self.benchmark and self.metric != "exact":
            yield "metric", f"is {self.metric!r}, but a benchmark has its own: leave it out"
        if self.variant and not self.benchmark:
            yield "variant", "belongs to a benchmark: name it"
