"""Times the length index and the first rows of a source of a hundred million samples, and writes benchmarks/results/index.json.

    python -m benchmarks.index [--samples 100000000] [--folder .cache/benchmark_index]        (8 GB of disk; about ten minutes on two cores)

The source is made: it repeats 4,000 real rows (pictures, several pictures, clips, texts; media on disk). Their measures are written over and
over into one shard of a million samples, which the source has as many times as it takes: all else is what a run does. Each stage has a process
of its own. Seconds are of the clock, which other work on a machine lengthens; cpu_seconds are of the process and its children.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from data_pipelines.failures import FailurePolicy
from data_pipelines.index import store, work
from data_pipelines.index.columns import COLUMNS
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.index.shards import shards_of
from data_pipelines.index.store import describe, load
from data_pipelines.index.work import Recipe
from data_pipelines.loading.loader import RowLoader
from data_pipelines.planning.planner import InputState, Planner, budgets
from data_pipelines.planning.too_long import find_too_long
from data_pipelines.schema import PhaseSettings, Sample, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.text.tokenizers import load_tokenizer

RESULT = pathlib.Path("benchmarks/results/index.json")
TOKENIZER = "tests/golden/tokenizer.json"
REAL, SHARD = 4000, 1_000_000  # samples
CLIPS = 300  # of the real samples: 7.5%
PHASE = PhaseSettings("bench", 4096, 8192, 8192, 256, 512, 32 * 32, 512 * 512, 32, (1.0, 4.0), 128 * 128, {"made": 1.0})


class MadeShard(NamedTuple):
    name: str
    fingerprint: str
    samples: int


class Repeated:
    """A source of many shards, all of them the same million samples, which repeat those of another source."""

    def __init__(self, settings: SourceSettings, samples: int):
        self.name, self.settings, self._source = settings.name, settings, open_source(settings)
        self._shards = [MadeShard("made", "made", SHARD)] * (samples // SHARD)
        self.ignored: Counter[str] = Counter()

    def __len__(self) -> int:
        return SHARD * len(self._shards)

    def __getitem__(self, index: int) -> Sample:
        return self._source[index % SHARD % REAL]

    def key(self, index: int) -> str:
        return f"{self._source.key(index % SHARD % REAL)} ({index})"

    def shards(self) -> Sequence[MadeShard]:
        return self._shards


def write_real(root: pathlib.Path) -> SourceSettings:
    """4,000 rows with their media: 2,000 of one picture, 600 of two to four, 300 clips, 1,100 texts."""
    settings = SourceSettings("made", "jsonl", str(root / "rows.jsonl"), str(root / "media"))
    if (root / "rows.jsonl").exists():
        return settings
    random = np.random.default_rng(0)
    (root / "media").mkdir(parents=True, exist_ok=True)
    for number in range(2000):
        pixels = random.integers(0, 255, (int(random.integers(40, 400)), int(random.integers(40, 400)), 3), np.uint8)
        Image.fromarray(pixels).save(root / f"media/{number}.jpg")
    for number in range(CLIPS):
        _write_clip(root / f"media/{number}.mp4", int(random.integers(10, 200)), int(random.choice([5, 8, 10, 25])))
    words = ["a", "red", "cat", "sits", "on", "the", "wide", "mat", "and", "looks", "at", "seven", "birds", "over", "there"]
    rows = []
    for number in range(REAL):
        said = " ".join(random.choice(words, int(np.clip(random.lognormal(3.5, 0.8), 2, 1500))))
        row: dict[str, Any] = {"conversations": [{"from": "human", "value": "Tell me."}, {"from": "gpt", "value": said}]}
        if number % 40 < 20:
            row |= {"image": f"{number // 40 * 20 + number % 40}.jpg"}
            row["conversations"][0]["value"] = "<image>\nWhat is this?"
        elif number % 40 < 26:
            count = 2 + number % 3
            row |= {"image": [f"{name}.jpg" for name in random.integers(0, 2000, count)]}
            row["conversations"][0]["value"] = "<image>" * count + "\nWhich of these?"
        elif number % 40 < 29:
            row |= {"video": f"{number // 40 * 3 + number % 40 - 26}.mp4"}
            row["conversations"][0]["value"] = "<video>\nWhat happens?"
        rows.append(json.dumps(row))
    (root / "rows.jsonl").write_text("\n".join(rows))
    return settings


def _write_clip(path: pathlib.Path, frames: int, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(frames):
            pixels = np.full((64, 96, 3), number % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


class Watch:
    """Seconds of the clock and of the processors since it was made or read."""

    def __init__(self) -> None:
        self._last = self._now()

    def _now(self) -> tuple[float, float]:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    def read(self) -> dict[str, float]:
        now, last = self._now(), self._last
        self._last = now
        return {"seconds": round(now[0] - last[0], 3), "cpu_seconds": round(now[1] - last[1], 3)}


def anonymous_memory() -> int:
    """Bytes of this process that are resident and backed by no file."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


def measure_real(folder: pathlib.Path) -> dict[str, Any]:
    """Indexes the real rows, five times over, in this process and with others; looks at them again; lays out their clips."""
    settings = write_real(folder / "real")
    rows = (folder / "real/rows.jsonl").read_text().splitlines()
    (folder / "real/more.jsonl").write_text("\n".join(rows * 5))
    settings = dataclasses.replace(settings, path=str(folder / "real/more.jsonl"))
    source, tokenizer = open_source(settings), load_tokenizer(TOKENIZER, True)
    work.CHUNK = 500
    result: dict[str, Any] = {"samples": len(source)}
    for processes in dict.fromkeys((1, 2, work.cores())):
        shutil.rmtree(folder / "try", ignore_errors=True)
        watch = Watch()
        LengthIndex.open(source, tokenizer, folder / "try", 1, recipe=Recipe(settings, str(folder / "tables"), TOKENIZER, True, processes))
        result[f"processes_{processes}"] = watch.read() | {"largest_process_bytes": _largest()}
    watch = Watch()
    index = LengthIndex.open(source, tokenizer, folder / "try", 1)
    result["looked_at_again"] = watch.read()
    clips = np.array([number for number in range(len(source)) if 26 <= number % 40 < 29])
    lengths = index.lengths(PHASE, 0)
    for name in ("clips_first", "clips_again"):
        watch = Watch()
        lengths[clips]
        result[name] = watch.read() | {"clips": len(clips)}
    return result


def _largest() -> int:
    """Bytes that the largest of this process's children held, that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def make_index(folder: pathlib.Path, samples: int) -> dict[str, Any]:
    """Writes the shard of a million samples, and has the source's put together."""
    settings = write_real(folder / "real")
    source, tokenizer = Repeated(settings, samples), load_tokenizer(TOKENIZER, True)
    real = LengthIndex.open(open_source(settings), tokenizer, folder / "real_index")
    columns = load(_described(real.path), COLUMNS)
    shard = shards_of(source, tokenizer)[0]
    watch = Watch()
    store.write(folder / "index" / "shards" / shard.identity, shard.identity, itertools.repeat(columns, SHARD // REAL), COLUMNS)
    result = {"shard": watch.read()}
    shutil.rmtree(folder / "index" / "joined", ignore_errors=True)
    index = LengthIndex.open(source, tokenizer, folder / "index")
    result["joined"] = watch.read()
    size = sum(path.stat().st_size for path in (folder / "index" / "joined").rglob("*.npy"))
    return result | {"samples": len(index), "bytes_on_disk": size, "anonymous_memory": anonymous_memory()}


def _described(path: pathlib.Path) -> store.Description:
    identity = json.loads((path / "index.json").read_text())["identity"]
    description = describe(path, identity, COLUMNS)
    assert description is not None
    return description


def first_rows(folder: pathlib.Path, samples: int) -> dict[str, Any]:
    """What a run does before its first step: opens the index, looks at a phase's lengths, plans, decodes the first rows."""
    began = Watch()
    settings = write_real(folder / "real")
    source, tokenizer = Repeated(settings, samples), load_tokenizer(TOKENIZER, True)
    before = anonymous_memory()
    watch = Watch()
    index = LengthIndex.open(source, tokenizer, folder / "index")
    result: dict[str, Any] = {"samples": len(index), "opened": watch.read(), "opened_anonymous_memory": anonymous_memory() - before}
    log = folder / "skipped.jsonl"
    log.unlink(missing_ok=True)
    loader = RowLoader([source], [index], [PHASE], tokenizer, 0, FailurePolicy(), log, threads=work.cores())
    loader.layout(0)
    result["looked_at_lengths"] = watch.read()
    result["too_long"] = {name: found.total for name, found in loader.layout(0).too_long.items()}
    batches: Iterator[Any] = loader.batches(loader.start())
    next(batches)
    result["first_rows"] = watch.read()
    result["first_rows_after"] = began.read()
    memory = anonymous_memory() - before
    result |= {"anonymous_memory": memory, "bytes_a_sample": round(memory / samples, 3)}
    for _ in range(3):
        next(batches)
    watch.read()
    planner = Planner(0, PHASE, [index], 0, InputState(0, 0, 0, (0,)), too_long=loader.layout(0).too_long)
    draws = sum(len(planner.row(row)) for row in range(2 * planner.block_rows))
    return result | {"planned": watch.read() | {"samples": draws}}


def one_core(folder: pathlib.Path, samples: int) -> dict[str, Any]:
    """Lengths of samples on one thread: those in order, of pictures and texts alone and of all."""
    settings = write_real(folder / "real")
    index = LengthIndex.open(Repeated(settings, samples), load_tokenizer(TOKENIZER, True), folder / "index")
    lengths, result, most = index.lengths(PHASE, 0), dict[str, Any](), min(samples, 8_000_000)
    without = np.array([number for number in range(most) if not 26 <= number % SHARD % REAL % 40 < 29], np.int64)
    for name, numbers in (("pictures_and_texts", without), ("all", np.arange(most)), ("all_again", np.arange(most))):
        watch = Watch()
        find_too_long(lengths, numbers, budgets(PHASE))
        result[name] = watch.read() | {"samples": len(numbers)}
    return result


STAGES = {"real": lambda folder, samples: measure_real(folder), "made": make_index, "first": first_rows, "one_core": one_core}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000_000, help="a multiple of a million")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache/benchmark_index"))
    parser.add_argument("--stage", choices=STAGES, help="one stage alone, to standard output")
    parser.add_argument("--result", type=pathlib.Path, default=RESULT)
    given = parser.parse_args(arguments)
    if given.stage:
        print(json.dumps(STAGES[given.stage](given.folder, given.samples)))
        return
    stages = ("real", "made", "first", "first", "one_core")
    load = os.getloadavg()[0]
    found = [_run(stage, given) for stage in stages]
    names = ("real_rows", "made_index", "first_start", "second_start", "one_core")
    machine = {"processor": platform.processor() or platform.machine(), "cores": work.cores(), "system": platform.platform()}
    versions = {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in ("numpy", "pillow", "av", "tokenizers")}
    result = {
        "command": f"python -m benchmarks.index --samples {given.samples}",
        "machine": machine | {"load_average_before": load},
        "versions": versions,
        "code": hashlib.sha256(b"".join(p.read_bytes() for p in sorted(pathlib.Path("data_pipelines").rglob("*.py")))).hexdigest()[:16],
        **dict(zip(names, found, strict=True)),
    }
    given.result.parent.mkdir(exist_ok=True)
    given.result.write_text(json.dumps(result, indent=1) + "\n")


def _run(stage: str, given: argparse.Namespace) -> Any:
    command = [sys.executable, "-m", "benchmarks.index", f"--samples={given.samples}", f"--folder={given.folder}", f"--stage={stage}"]
    # One thread of numpy and hashing where a core is measured.
    affinity = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})} if stage == "one_core" else {}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, **affinity)  # type: ignore[call-overload]
    found = json.loads(done.stdout)
    print(stage, json.dumps(found, indent=1), file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
