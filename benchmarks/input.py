"""What the input does in a second of one core, and whether a fast step would wait for it; writes benchmarks/results/input.json.

    python -m benchmarks.input          (about three minutes on two cores)

Seconds are of the processor (process time), so that other work on the machine counts as little as may be; a busy machine is slower all the same.
Files are made: photo-like JPEGs, and clips of 20 seconds whose frames carry their number as a bar code. Rates of pictures are those of
documents.build_document: read, decode, resize, cut into visual tokens, tokenize.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.packing import MIXTURE, lognormal_mixture, phase
from benchmarks.step import machine
from configs.neo_ov_2b import get_config
from data_pipelines.documents import build_document
from data_pipelines.index.lengths import LengthIndex
from data_pipelines.media import video
from data_pipelines.planning.planner import InputState, Planner
from data_pipelines.schema import Clip, Media, PhaseSettings, Sample, SourceSettings, Turn
from data_pipelines.sources import open_source
from data_pipelines.storage import write_whole
from data_pipelines.text.tokenizers import Tokenizer, load_tokenizer
from neo_jax.config import Config

RESULT = pathlib.Path("benchmarks/results/input.json")
TOKENIZER = "tests/golden/tokenizer.json"
MEGAPIXEL = 1024 * 1024
# Heights and widths: 1.2, 1.6, 3.5 and 8.0 megapixels. All are resized to about one megapixel.
PICTURES = ((960, 1280), (1024, 1536), (1536, 2304), (2304, 3456))
PLAIN = PhaseSettings("bench", 8, 36_864, 36_864, 512, 512, 65_536, MEGAPIXEL, 128, (1.0, 4.0), 512 * 512, {})
ROWS = 20_000  # that are indexed
H200_FLOPS, MFU = 989e12, 0.4  # dense bfloat16 (data sheet), and the share of it that a step is taken to use
HOST_CORES, CONTEXT = 16, 36_864
BITS = 10  # of a frame's bar code
TICKS = 0.002  # seconds: two ticks of Matroska's clock, by which a frame may be shown before its time
SECONDS, FRAME_RATE, SHOWN = 20, 25, 16  # of the clips, and how many of their frames are asked for


def photo(height: int, width: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 37) + np.cos(y / 23), np.sin((x + y) / 51), np.cos(x / 91 - y / 13)], -1) * 60 + 128
    return np.clip(waves + np.random.default_rng(0).normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def processor_seconds(work: Callable[[], Any], least: float = 2.0) -> float:
    """Processor seconds of one call, the mean over as many as take `least`; the first is not counted."""
    work()
    began, calls = time.process_time(), 0
    while (taken := time.process_time() - began) < least:
        work()
        calls += 1
    return taken / calls


def pictures(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    rows = []
    for height, width in PICTURES:
        file = io.BytesIO()
        Image.fromarray(photo(height, width)).save(file, "JPEG", quality=90)
        sample = Sample("a", (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "Waves.")), (Media("a.jpg", data=file.getvalue()),))
        for resize in ("exact", "fast"):
            settings = PhaseSettings(**{**PLAIN.__dict__, "resize": resize})
            tokens = len(build_document(sample, settings, tokenizer, 0).visual)
            seconds = processor_seconds(lambda settings=settings, sample=sample: build_document(sample, settings, tokenizer, 0))
            megapixels = round(height * width / 1e6, 1)
            rows.append({"megapixels": megapixels, "visual_tokens": tokens, "resize": resize, "images_per_second": round(1 / seconds, 1)})
            print(rows[-1], flush=True)
    return rows


def coded(number: int) -> npt.NDArray[np.uint8]:
    """A 720p frame whose upper half holds its number as black and white bars."""
    frame = np.full((720, 1280, 3), 90, np.uint8)
    frame[360:, :, :] = (np.arange(1280)[None, :, None] * 3 + number * 7) % 200
    for bit in range(BITS):
        frame[:360, 128 * bit : 128 * (bit + 1)] = 235 if number >> bit & 1 else 16
    return frame


def read_code(frame: npt.NDArray[np.uint8]) -> int:
    return sum(int(frame[180, 128 * bit + 64].mean() > 128) << bit for bit in range(BITS))


def write_clip(times: list[int], format: str, codec: str, options: dict[str, str]) -> bytes:
    """A clip whose frames are shown at these hundredths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=FRAME_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        base = Fraction(1, 100) if format != "avi" else Fraction(1, FRAME_RATE)
        stream.codec_context.time_base = base
        for number, moment in enumerate(times):
            frame = av.VideoFrame.from_ndarray(coded(number), format="rgb24")
            frame.pts, frame.time_base = (moment if format != "avi" else number), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def clips() -> list[dict[str, Any]]:
    constant = [4 * number for number in range(SECONDS * FRAME_RATE)]
    random = np.random.default_rng(0)
    variable = [0, *np.cumsum(random.integers(1, 8, SECONDS * FRAME_RATE - 1)).tolist()]
    kinds = {
        "constant rate, a key frame in 25": (constant, "mp4", "libx264", {"preset": "ultrafast", "g": "25"}),
        "constant rate, a key frame in 500": (constant, "mp4", "libx264", {"preset": "ultrafast", "g": "500", "bf": "2"}),
        "variable rate": (variable, "matroska", "libx264", {"preset": "ultrafast", "g": "50"}),
        "AVI with B-frames": (constant, "avi", "mpeg4", {"bf": "2", "g": "50"}),
    }
    rows = []
    for name, (times, format, codec, options) in kinds.items():
        clip = Clip((Media(f"clip.{format}", data=write_clip(times, format, codec, options)),))
        info = video.probe(clip)
        indices = np.linspace(0, info.frames - 1, SHOWN).astype(int)
        found = [read_code(frame) for frame in video.read_frames(clip, info, indices)]
        moments = video.timestamps(info, indices)
        ends = [*times[1:], times[-1] + 100]
        exact = all(times[n] / 100 <= at + TICKS and at < ends[n] / 100 for n, at in zip(found, moments, strict=True))
        seconds = processor_seconds(lambda clip=clip, info=info, indices=indices: list(video.read_frames(clip, info, indices)), 1.0)
        rows.append({"clip": name, "frames": info.frames, "exact": exact, "seconds": round(seconds, 3)})
        print(rows[-1], flush=True)
    return rows


def indexing(tokenizer: Tokenizer, folder: pathlib.Path, picture: str) -> float:
    """Rows a second of one core that an index measures: of text, or of a picture whose size the row gives, so that its file is not opened.

    Args:
      folder: an empty folder.
      picture: name of the picture, "" for text.
    """
    question, answer = "What is the sum of these two numbers?", "It is twelve, since five and seven"
    row: dict[str, Any] = {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    given: dict[str, Any] = {}
    if picture:
        Image.new("RGB", (640, 480)).save(folder / picture)
        row |= {"image": picture, "width": 640, "height": 480}
        row["conversations"][0]["value"] = f"<image>\n{question}"
        given = {"media_root": str(folder), "given_sizes": True}
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * ROWS)
    source = open_source(SourceSettings("rows", "jsonl", str(folder / "rows.jsonl"), **given), folder / "tables")
    began = time.process_time()
    LengthIndex.open(source, tokenizer, folder / "index", threads=1)
    return ROWS / (time.process_time() - began)


def planning() -> list[dict[str, Any]]:
    rows = []
    for context in (8192, 16_384, CONTEXT):
        # Room for pixels in four fifths of the tokens: about what full rows of this mixture need. Larger samples are too long.
        settings = dataclasses.replace(phase(context, MIXTURE, 16), visual_tokens=context * 4 // 5 // 64 * 64)
        sources = lognormal_mixture(context)
        planner = Planner(0, settings, sources, 0, InputState(0, 0, 0, (0,) * len(sources)))
        began = time.process_time()
        drawn = [planner.row(row) for row in range(settings.rows)]
        taken = time.process_time() - began
        lengths = np.array([planner.lengths(row).sum(axis=0) for row in drawn]).mean(axis=0)
        state = planner.state(settings.rows - 16)
        began = time.process_time()
        Planner(0, settings, sources, 0, state, too_long=planner.too_long).row(settings.rows - 16)
        rows.append(
            {
                "context": context,
                "visual_tokens": settings.visual_tokens,
                "too_long": round(float(np.mean([_too_long(source.lengths(settings, 0), settings) for source in sources])), 5),
                "token_fill": round(float(lengths[0]) / context, 4),
                "visual_fill": round(float(lengths[1]) / settings.visual_tokens, 4),
                "samples_per_second": round(sum(map(len, drawn)) / taken),
                "resume_seconds": round(time.process_time() - began, 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _too_long(lengths: npt.NDArray[np.int64], settings: PhaseSettings) -> float:
    """The share of samples that fit the context and not the budget of visual tokens."""
    fit = lengths[:, 0] <= settings.context
    return float((fit & (lengths[:, 1] > settings.visual_tokens)).sum() / len(lengths))


def waiting(images: list[dict[str, Any]]) -> dict[str, Any]:
    """What share of its time a step would wait, from the rates of one core."""
    model = Config.from_config_dict(get_config()).model
    parameters = model.parameters() - (0 if model.tied else model.vocabulary * model.hidden)
    tokens = MFU * H200_FLOPS / (6 * parameters)
    shares = {}
    for row in images:
        gives = HOST_CORES * row["images_per_second"] * row["visual_tokens"]
        shares[f"{row['resize']}, from {row['megapixels']} megapixels"] = round(max(0.0, 1 - gives / tokens), 3)
    return {
        "label": f"extrapolated from the rates of one core to {HOST_CORES} cores of which each decodes; nothing of this ran on a GPU",
        "formula": f"tokens/s of the step = {MFU} x {H200_FLOPS:.3g} FLOP/s / (6 x {parameters:,} parameters), attention left out: the fastest that "
        f"it can be at that share; rows of {CONTEXT} tokens all of which are pictures; waits = max(0, 1 - cores x images/s x tokens of one / that)",
        "step_tokens_per_second": round(tokens),
        "step_seconds_for_one_row": round(CONTEXT / tokens, 2),
        "waits": shares,
    }


def main() -> None:
    load = os.getloadavg()[0]
    tokenizer = load_tokenizer(TOKENIZER, add_special_tokens=True)
    images = pictures(tokenizer)
    rows_per_second = {}
    for kind, picture in (("text", ""), ("picture with a given size", "a.jpg")):
        with tempfile.TemporaryDirectory() as folder:
            rows_per_second[kind] = round(indexing(tokenizer, pathlib.Path(folder), picture))
        print(kind, rows_per_second[kind], "rows/s", flush=True)
    result = {
        "command": "python -m benchmarks.input",
        "formula": "processor seconds of this process (time.process_time) throughout: rates are of one core",
        "machine": machine(load),
        "versions": {"python": sys.version.split()[0]}
        | {name: version(name) for name in ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "av", "tokenizers")},
        "pictures": images,
        "clips": clips(),
        "rows_indexed_per_second": rows_per_second,
        "planning": planning(),
        "waiting": waiting(images),
    }
    write_whole(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["waiting"], indent=1), f"\n{RESULT}")


if __name__ == "__main__":
    main()
