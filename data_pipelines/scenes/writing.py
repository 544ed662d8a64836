"""Writes the corpus as LLaVA-style JSONL with JPEG and MP4 files, in a temporary folder that is renamed when complete.

FOLDER/scenes.json                     settings, their hash, counts; present only in a complete corpus
FOLDER/train/{text,caption,image,large,multi,video}.jsonl
FOLDER/heldout/FAMILY.jsonl            one question a row
FOLDER/media/...                       paths in the rows are relative to FOLDER
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fcntl
import glob
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import av
import simplejpeg

from data_pipelines.scenes import clips, images, several, words
from data_pipelines.scenes.drawing import render
from data_pipelines.scenes.layout import LARGE_GRIDS, SMALL_GRIDS, Example, Question, Scene, is_held_out
from data_pipelines.schema import DataError

VERSION = 10  # increase it if the same settings would write other bytes
JPEG_QUALITY = 92
CHUNK = 1000  # training scenes that one task writes
CAPTION_SHARE = 0.15  # share of scenes with captions that get a caption row; it has no other turns, since it would reveal answers
ROWS = 3  # largest number of conversations about a training scene, each a row with the same files; also of questions in a conversation
# Shares of the conversations that ask all that is left. More questions about a picture give more answers for as many tokens: so the demo
# looked up colours within 100 steps of "captions", and not within 270 with 0.15 and at most two questions (one run each, seed 0).
ALL_TURNS = 0.6
ALL_TURNS_SEVERAL = 1.0  # of conversations about several pictures or a clip, which take many tokens
# Training sources and the functions that generate their scenes.
MAKERS: dict[str, Callable[[Random], Example]] = {
    "text": words.text,
    "caption": images.caption_image,
    "image": images.small_image,
    "large": images.large_image,
    "multi": several.several_images,
    "video": clips.clip,
}


def _small_or_large(maker: Callable[[Random, tuple[tuple[int, int], ...]], Example]) -> Callable[[Random], Example]:
    return lambda random: maker(random, LARGE_GRIDS if random.random() < 0.2 else SMALL_GRIDS)


# Held-out families and the functions that generate their scenes.
FAMILIES: dict[str, Callable[[Random], Example]] = {
    "text": words.text,
    "count": _small_or_large(images.crowd),
    "colour": _small_or_large(images.distinct),
    "shape": _small_or_large(images.distinct),
    "reading": _small_or_large(images.reading),
    "left_right": _small_or_large(images.sides),
    "nearer": _small_or_large(images.ground),
    "distance": _small_or_large(images.track),
    "difference": several.several_images,
    "motion": clips.motion,
    "order": clips.order,
    "time": clips.time,
}
MOST_TRIES = 2000  # mean number of scenes drawn per held-out question above which a family fails with an error
MAJORITY_LIMIT = 0.3  # largest share of a held-out family's questions with the same correct answer


@dataclasses.dataclass(frozen=True)
class ScenesSettings:
    """Settings that determine every byte of the corpus.

    Attributes:
      seed: seed of all random choices.
      text, caption, image, large, multi, video: number of training scenes of each source; each gives up to ROWS conversations.
      held_out: number of questions of each held-out family.
    """

    seed: int = 0
    text: int = 6_000
    caption: int = 5_000
    image: int = 8_000
    large: int = 2_000
    multi: int = 2_500
    video: int = 3_500
    held_out: int = 250

    def __post_init__(self) -> None:
        for name, count in dataclasses.asdict(self).items():
            if count < 0:
                raise DataError(f"scenes: {name} is {count}; give a number of at least 0.")

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([VERSION, dataclasses.asdict(self)]).encode()).hexdigest()


def _mp4(frames: tuple[Scene, ...], path: pathlib.Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=clips.RATE, options={"qmin": "2", "qmax": "2", "flags": "+bitexact"})
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = frames[0].height, frames[0].width, "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(render(frame), format="rgb24")))
        container.mux(stream.encode())


def _media(example: Example, root: pathlib.Path, stem: str) -> dict[str, str | list[str]]:
    """Writes the example's media files and returns the row's media key with their names; empty if there are none."""
    if example.frames:
        _mp4(example.frames, root / f"{stem}.mp4")
        return {"video": f"{stem}.mp4"}
    names = [f"{stem}.jpg" if len(example.images) == 1 else f"{stem}-{place}.jpg" for place in range(len(example.images))]
    for name, scene in zip(names, example.images, strict=True):
        data = simplejpeg.encode_jpeg(render(scene), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
        (root / name).write_bytes(data)
    return {} if not names else {"image": names[0]} if len(names) == 1 else {"images": names}


def _row(identity: str, family: str, example: Example, turns: list[tuple[str, str]], media: dict[str, str | list[str]]) -> str:
    opening = "<video>\n" if example.frames else "<image>\n" * len(example.images)
    if len(example.images) > 1:
        opening = "".join(f"Image {place}: <image>\n" for place, _ in enumerate(example.images, 1))
    if example.preamble:
        opening = f"{example.preamble}\n"
    conversations = []
    for place, (question, answer) in enumerate(turns):
        conversations.append({"from": "human", "value": (opening if place == 0 else "") + question})
        conversations.append({"from": "gpt", "value": answer})
    return json.dumps({"id": identity, **media, "conversations": conversations, "family": family})


def _conversations(random: Random, example: Example) -> list[list[tuple[str, str]]]:
    """Returns up to ROWS conversations about a scene: its caption, or up to ROWS questions. No question reveals the answer of another."""
    asked: dict[str, Question] = {}
    for question in random.sample(example.questions, len(example.questions)):
        asked.setdefault(question.fact, question)
    left = [(question.text, question.answer) for question in asked.values()]
    share = ALL_TURNS_SEVERAL if len(example.images) + len(example.frames) > 1 else ALL_TURNS
    conversations = []
    if example.captions and random.random() < CAPTION_SHARE:
        conversations.append([random.choice(example.captions)])
    while left and len(conversations) < ROWS:
        turns = ROWS if random.random() < share else 1
        conversations.append(left[:turns])
        left = left[turns:]
    return conversations


def _train_chunk(root: pathlib.Path, seed: int, source: str, first: int, last: int) -> tuple[list[str], list[str]]:
    """Writes the media of scenes [first, last) of a training source; returns the rows and layouts."""
    folder = f"media/{source}/{first // CHUNK:03d}"
    if source != "text":
        (root / folder).mkdir(parents=True)
    rows, layouts = [], []
    for place in range(first, last):
        random = Random(f"{seed}/train/{source}/{place}")
        example = MAKERS[source](random)
        while is_held_out(example.layout):
            example = MAKERS[source](random)
        media = _media(example, root, f"{folder}/{place:06d}")
        for number, turns in enumerate(_conversations(random, example)):
            rows.append(_row(f"{source}-{place:06d}-{number}", source, example, turns, media))
        layouts.append(example.layout)
    return rows, layouts


def _held_out_family(root: pathlib.Path, seed: int, family: str, count: int) -> tuple[list[str], list[str]]:
    """Writes the media of a held-out family; returns the rows and layouts. Every layout has one question."""
    folder = f"media/heldout/{family}"
    if family != "text":
        (root / folder).mkdir(parents=True)
    random = Random(f"{seed}/heldout/{family}")
    limit = max(1, math.floor(MAJORITY_LIMIT * count))
    answers: Counter[str] = Counter()
    rows: list[str] = []
    layouts: dict[str, None] = {}
    tries = 0
    while len(rows) < count:
        tries += 1
        if tries > MOST_TRIES * count:
            raise DataError(
                f"scenes: {family} has too few different answers for {count} questions, at most {limit} with the same: change held_out"
            )
        example = FAMILIES[family](random)
        if not is_held_out(example.layout) or example.layout in layouts:
            continue
        choices = [question for question in example.questions if question.family == family and answers[question.answer] < limit]
        if not choices:
            continue
        question = random.choice(choices)
        answers[question.answer] += 1
        media = _media(example, root, f"{folder}/{len(rows):06d}")
        rows.append(_row(f"heldout-{family}-{len(rows):06d}", family, example, [(question.text, question.answer)], media))
        layouts[example.layout] = None
    return rows, list(layouts)


def _start_worker(lock: pathlib.Path) -> None:
    """Makes this worker exit when its parent process ends, and hold a shared lock on the file `lock` until then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)  # never closed
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not parent.is_alive():  # a later call may have removed the folder before this worker had the lock
        os._exit(1)

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_rows(path: pathlib.Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _build(root: pathlib.Path, settings: ScenesSettings, workers: int, lock: pathlib.Path) -> None:
    trained: set[str] = set()
    held_out: set[str] = set()
    counts = {"train": {source: getattr(settings, source) for source in MAKERS}, "heldout": dict.fromkeys(FAMILIES, settings.held_out)}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (lock,)) as pool:
        chunks = {
            source: [
                pool.submit(_train_chunk, root, settings.seed, source, first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)
            ]
            for source, count in reversed(counts["train"].items())
        }
        families = {family: pool.submit(_held_out_family, root, settings.seed, family, settings.held_out) for family in FAMILIES}
        for source, futures in chunks.items():
            results = [future.result() for future in futures]
            _write_rows(root / "train" / f"{source}.jsonl", [row for rows, _ in results for row in rows])
            trained.update(layout for _, layouts in results for layout in layouts)
        for family, future in families.items():
            rows, layouts = future.result()
            _write_rows(root / "heldout" / f"{family}.jsonl", rows)
            held_out.update(layouts)
    if trained & held_out:
        raise DataError(f"scenes: {len(trained & held_out)} scenes are in both splits, such as {min(trained & held_out)!r}.")
    manifest = {"settings": dataclasses.asdict(settings), "version": VERSION, "digest": settings.digest(), "counts": counts}
    (root / "scenes.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _is_complete(folder: pathlib.Path, settings: ScenesSettings) -> bool:
    if not folder.exists():
        return False
    manifest = folder / "scenes.json"
    if not manifest.is_file():
        raise DataError(f"scenes: {folder} exists and is not a corpus (it has no scenes.json); choose another folder.")
    if json.loads(manifest.read_text(encoding="utf-8")).get("digest") != settings.digest():
        raise DataError(f"scenes: {folder} holds a corpus of other settings (see {manifest}); choose another folder or delete it.")
    return True


def _remove_left_overs(folder: pathlib.Path, workers_lock: pathlib.Path) -> None:
    """Removes the temporary folders of killed calls, after waiting for their workers, which may still be writing."""
    with open(workers_lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
            shutil.rmtree(left_over)


def write_scenes(folder: str | os.PathLike[str], settings: ScenesSettings, workers: int = 2) -> pathlib.Path:
    """Writes the corpus into `folder`, or returns at once if it already exists.

    A second process with the same folder waits. If the process is killed, only a temporary folder remains, which the next call removes.

    Args:
      folder: path of the corpus; must not exist, or contain the complete corpus of the same settings.
      settings: settings of the corpus.
      workers: number of processes that draw; it does not change the bytes.

    Returns:
      The folder's absolute path.

    Raises:
      DataError: the folder contains something else.
    """
    folder = pathlib.Path(folder).resolve()
    if _is_complete(folder, settings):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_complete(folder, settings):
            return folder
        workers_lock = folder.parent / f".{folder.name}.workers.lock"
        _remove_left_overs(folder, workers_lock)
        partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
        partial.mkdir()
        _build(partial, settings, workers, workers_lock)
        partial.rename(folder)
    return folder


def texts(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the text of every turn of the training split, without media marks, for training a tokenizer."""
    for path in sorted(pathlib.Path(folder).glob("train/*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                for turn in json.loads(line)["conversations"]:
                    yield turn["value"].replace("<image>", "").replace("<video>\n", "")
