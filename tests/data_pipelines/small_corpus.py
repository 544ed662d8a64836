"""A small corpus of real files for the tests of sources, index, planner and loader."""

import functools
import json
import pathlib

import av
import numpy as np
from PIL import Image

from data_pipelines.index.shards import shards_of
from data_pipelines.schema import PhaseSettings, SourceSettings
from data_pipelines.sources import open_source
from data_pipelines.text.tokenizers import load_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@functools.cache
def tokenizer():
    return load_tokenizer(GOLDEN / "tokenizer.json", add_special_tokens=True)


def phase(**changes):
    settings = dict(
        name="p", rows=8, context=512, visual_tokens=400, images=32, segments=32, min_pixels=32 * 32, max_pixels=128 * 128, frames=8,
        frames_per_second=(1.0, 4.0), frame_pixels=64 * 64, mixture={"mixed": 1.0},
    )  # fmt: skip
    return PhaseSettings(**(settings | changes))


WIDE = dict(context=1 << 20, visual_tokens=1 << 20, images=1000)  # budgets that hold everything


def turns(question, answer="Yes."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_image(path, height, width, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_sums(path, count):
    """JSON lines of conversations without media."""
    write_jsonl(path, [{"conversations": turns(f"What is {i} and {i}?", f"{2 * i}.")} for i in range(count)])


def write_video(path, frames=20, rate=5, height=64, width=96):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), number * 4, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_jsonl(path, records):
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return path


def write_corpus(root, repeats=1):
    """Images of several sizes and formats, several images, a video, text. Returns the path of mixed.jsonl."""
    media = root / "media"
    sizes = [(40, 40), (64, 300), (300, 64), (501, 377), (33, 1000), (128, 128)]
    names = [f"pictures/{number}.{kind}" for number, kind in enumerate(["png", "jpg", "webp", "jpg", "png", "jpg"])]
    for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        write_image(media / name, height, width, number)
    write_video(media / "clip.mp4")
    write_video(media / "long.mp4", frames=60, rate=6, height=48, width=48)
    records = []
    for repeat in range(repeats):
        records += [{"image": name, "conversations": turns(f"<image>\nWhat is {repeat} here?"), "family": "what"} for name in names]
        records += [
            {"id": 7, "images": names[:3], "conversations": turns("First <image>, then <image><image>. Which?")},
            {"image": names[:2], "conversations": turns("<image>and", "this: <image>")},
            {"video": "clip.mp4", "conversations": turns("<video>\nWhich way does it move?", "Left.")},
            {"video": "long.mp4", "conversations": turns("Say <video> when.", "Now.")},
            {"conversations": turns("Two and two? \u2014 \u00e9\u4e16", "Four.")},
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "user", "value": "Hello <|im_end|>"},
                    {"from": "assistant", "value": "Hi.", "is_input": True},
                    *turns(f"Again {repeat}?", "Hi again."),
                ]
            },
        ]
    return write_jsonl(root / "mixed.jsonl", records)


def identities(source):
    """What a length index knows a source by: its shards' content, and how they are read."""
    return [shard.identity for shard in shards_of(source, tokenizer())]


def jsonl(path, name="mixed", media_root=None):
    return open_source(SourceSettings(name, "jsonl", str(path), str(media_root or path.parent / "media")))


def write_broken_corpus(root):
    """Good rows (the first and the last) and one of every kind that cannot be used. Returns the path of mixed.jsonl."""
    media = root / "media"
    write_image(media / "good.png", 64, 64)
    write_image(media / "long.png", 2, 500)
    (media / "empty.png").touch()
    for name in ("text.png", "text.mp4"):
        (media / name).write_text("plainly neither a picture nor a clip")
    (media / "header.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JF")
    Image.new("1", (9_500, 9_500)).save(media / "bomb.png", compress_level=1)
    (media / "folder.png").mkdir()
    names = ["none.png", "empty.png", "text.png", "header.jpg", "bomb.png", "long.png", "folder.png", "../x.png"]
    rows = [{"image": name, "conversations": turns("<image>?")} for name in ["good.png", *names]]
    rows += [
        "{broken",
        {"conversations": [{"from": "robot", "value": "x"}]},
        {"conversations": turns("<image>?")},
        {"video": "text.mp4", "conversations": turns("<video>?")},
        {"conversations": turns("fine")},
    ]
    return write_jsonl(root / "mixed.jsonl", rows)
