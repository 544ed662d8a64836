"""The procedural corpus: format, truth, balance, splits, determinism, atomic writing."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from random import Random

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.scenes import FAMILIES, MAKERS, ScenesSettings, clips, images, texts, write_scenes, writing
from data_pipelines.scenes.drawing import render
from data_pipelines.scenes.layout import COLOURS, LARGE_GRIDS, PLURALS, SMALL_GRIDS, is_held_out
from data_pipelines.schema import DataError

SETTINGS = ScenesSettings(seed=3, text=60, caption=12, image=60, large=12, multi=12, video=12, held_out=10)
VISUAL = [family for family in FAMILIES if family != "text"]


def tree(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_of(row: dict) -> list[str]:
    return row.get("images", []) + [row[key] for key in ("image", "video") if key in row]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
    return write_scenes(tmp_path_factory.mktemp("corpus") / "scenes", SETTINGS, workers=2)


def test_same_seed_same_bytes_whatever_the_number_of_workers(corpus, tmp_path):
    again = write_scenes(tmp_path / "again", SETTINGS, workers=1)
    assert tree(again) == tree(corpus)


def test_another_seed_gives_other_scenes():
    zero, one = ([images.small_image(Random(f"{seed}/{place}")) for place in range(5)] for seed in (0, 1))
    assert zero != one


def test_every_source_and_family_is_written_with_its_count(corpus):
    for source in MAKERS:
        of_scene = Counter(row["id"].rpartition("-")[0] for row in rows(corpus / "train" / f"{source}.jsonl"))
        assert len(of_scene) == getattr(SETTINGS, source)
        assert min(of_scene.values()) >= 1 and max(of_scene.values()) <= writing.ROWS
    assert {path.stem: len(rows(path)) for path in (corpus / "heldout").iterdir()} == dict.fromkeys(FAMILIES, SETTINGS.held_out)


def test_rows_have_the_format_of_users_and_their_files_decode(corpus):
    seen = set()
    for path in sorted(corpus.glob("*/*.jsonl")):
        for row in rows(path):
            assert row["family"] == path.stem
            turns = row["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2) and turns
            marks = "".join(turn["value"] for turn in turns)
            assert marks.count("<image>") == len(row.get("images", [])) + ("image" in row)
            assert marks.count("<video>") == ("video" in row)
            assert all(turn["value"] == turn["value"].strip() for turn in turns)
            for name in files_of(row):
                if name in seen:
                    assert path.parent.name == "train", "only the rows of a training scene share files"
                    continue
                assert not name.startswith("/") and ".." not in name
                seen.add(name)
                if name.endswith(".jpg"):
                    image = Image.open(corpus / name)
                    image.load()
                    assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) >= 26 and max(image.size) <= 200
                else:
                    with av.open(str(corpus / name)) as container:
                        stream = container.streams.video[0]
                        assert float(stream.average_rate) == clips.RATE
                        frames = list(container.decode(stream))
                    assert len(frames) == clips.SECONDS * clips.RATE
    on_disk = {str(path.relative_to(corpus)) for path in (corpus / "media").rglob("*") if path.is_file()}
    assert seen == on_disk


def test_training_conversations_are_a_caption_or_questions_and_held_out_one_question(corpus):
    for path in corpus.glob("heldout/*.jsonl"):
        assert all(len(row["conversations"]) == 2 for row in rows(path))
    conversations = [row["conversations"] for row in rows(corpus / "train" / "image.jsonl")]
    captions = [bool(re.search(r"Describe|each colour|What colour is each", turns[0]["value"])) for turns in conversations]
    assert 0.02 < np.mean(captions) < 0.2
    assert all(len(turns) == 2 for turns, caption in zip(conversations, captions, strict=True) if caption)
    assert {len(turns) // 2 for turns in conversations} == {1, 2, 3}


def test_splits_share_no_scene():
    for family, maker in FAMILIES.items():
        random = Random(family)
        layouts = {maker(random).layout for _ in range(300)}
        share = np.mean([is_held_out(layout) for layout in layouts])
        assert 0.04 < share < 0.25, family


def test_splits_share_no_file_and_no_described_scene(corpus):
    held_out = set(tree(corpus / "media" / "heldout").values())
    trained = {digest for source in ("image", "large", "multi", "video") for digest in tree(corpus / "media" / source).values()}
    assert held_out and trained and not held_out & trained
    trained, held_out = (
        {row["conversations"][0]["value"].rpartition("\n")[0] for row in rows(corpus / split / "text.jsonl")}
        for split in ("train", "heldout")
    )
    assert held_out and trained and not held_out & trained


def test_the_same_scene_in_both_splits_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.concurrent.futures, "ProcessPoolExecutor", lambda *_: writing.concurrent.futures.ThreadPoolExecutor(1))
    monkeypatch.setattr(writing, "_train_chunk", lambda *_: (["{}"], ["a scene"]))
    monkeypatch.setattr(writing, "_held_out_family", lambda *_: (["{}"], ["a scene"]))
    with pytest.raises(DataError, match="both splits"):
        write_scenes(tmp_path / "scenes", SETTINGS)
    assert not (tmp_path / "scenes").exists()


@pytest.mark.parametrize("grids", [SMALL_GRIDS, LARGE_GRIDS])
def test_pixels_show_what_the_layout_says(grids):
    names = list(COLOURS)
    palette = np.asarray([COLOURS[name] for name in names], float)
    for place in range(60):
        for maker in (images.crowd, images.distinct, images.ground, images.track):
            scene = maker(Random(f"{place}"), grids).images[0]
            pixels = render(scene).astype(float)
            nearest = np.abs(pixels[..., None, :] - palette).sum(-1)
            close = np.where(nearest.min(-1) < 60, nearest.argmin(-1), -1)
            for thing in scene.things:
                if thing.shape == "wall":
                    continue
                top, bottom = (round((thing.row + step) * scene.height / scene.rows) for step in (0, 1))
                left, right = (round((thing.column + step) * scene.width / scene.columns) for step in (0, 1))
                found = close[top:bottom, left:right]
                assert (found == names.index(thing.colour)).sum() > 20, (scene, thing)


def test_answers_follow_from_the_caption():
    """Counts, colours and shapes worked out again from the caption alone."""
    checked: Counter[str] = Counter()
    singular = {plural: shape for shape, plural in PLURALS.items()}
    for place in range(400):
        example = (images.crowd, images.distinct)[place % 2](Random(f"caption {place}"), SMALL_GRIDS)
        caption = example.captions[0][1]
        pairs = re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(PLURALS)})", caption)
        assert len(pairs) == len(example.images[0].things)
        for prompt, by_kind in example.captions[1:]:
            kinds = re.findall(r"(\w+) (\w+)", by_kind)
            assert sorted(kinds) == sorted(pair if prompt.startswith("Which") else pair[::-1] for pair in pairs)
        for question in example.questions:
            if question.family == "count":
                kind = re.search(r"(?:How many|Count the) (.+?)(?: are there)?[?.]", question.text).group(1)
                matching = [pair for pair in pairs if kind == "objects" or pair[1] == singular.get(kind) or f"{pair[0]} objects" == kind]
                assert question.answer == str(len(matching)), (caption, question)
            elif question.family == "colour":
                (answer,) = [colour for colour, shape in pairs if shape in question.text]
                assert question.answer == answer
            elif question.family == "shape":
                (answer,) = [shape for colour, shape in pairs if colour in question.text]
                assert question.answer == answer
            else:
                continue
            checked[question.family] += 1
    assert min(checked[family] for family in ("count", "colour", "shape")) > 100


def test_left_right_nearer_distance_and_reading_hold_in_the_layout():
    for place in range(200):
        random = Random(f"space {place}")
        for example in (images.sides(random, SMALL_GRIDS), images.ground(random, LARGE_GRIDS), images.track(random, SMALL_GRIDS)):
            things = example.images[0].things
            wall = [thing for thing in things if thing.shape == "wall"]
            for question in example.questions:
                if question.family == "left_right" and question.text.startswith("Is"):
                    first, second = re.match(r"Is the (\w+) left or right of the (\w+)", question.text).groups()
                    columns = {thing.shape: thing.column for thing in things}
                    assert question.answer == ("left" if columns[first] < columns[second] else "right")
                elif question.family == "left_right":
                    side = min if "left" in question.text else max
                    extreme = side(thing.column for thing in things)
                    (thing,) = [thing for thing in things if thing.column == extreme]
                    assert question.answer in (thing.colour, thing.shape)
                elif question.family == "nearer":
                    thing = (max if "nearest" in question.text else min)(things, key=lambda thing: thing.size)
                    assert thing.row == (max if "nearest" in question.text else min)(thing.row for thing in things)
                    assert question.answer in (thing.colour, thing.shape)
                elif question.family == "distance":
                    (thing,) = [thing for thing in things if thing.shape in question.text and thing.shape != "wall"]
                    assert question.answer == str(abs(int(thing.column - wall[0].column)))
        example = images.reading(random, SMALL_GRIDS)
        written = " ".join(thing.shape for thing in sorted(example.images[0].things, key=lambda thing: thing.column))
        assert [question.answer for question in example.questions if question.fact == "text"] == [written]


def sampled(example, rate: float) -> list[tuple[float, object]]:
    """Inner, evenly spaced frames, as the input pipeline takes them: (second, scene)."""
    total = len(example.frames)
    count = max(1, int(rate * total / clips.RATE))
    indices = [int(total * (place + 1) / (count + 1)) for place in range(count)]
    return [(index / clips.RATE, example.frames[index]) for index in indices]


@pytest.mark.parametrize("rate", [1.0, 1.3, 2.0, 3.3, 4.0])
def test_clips_stay_answerable_from_sampled_frames(rate):
    for place in range(80):
        random = Random(f"clip {place}")
        example = clips.time(random)
        for question in example.questions:
            shape = question.fact.removeprefix("start ")
            first = next(second for second, scene in sampled(example, rate) if any(thing.shape == shape for thing in scene.things))
            assert str(int(first)) == question.answer
        example = clips.order(random)
        shown = list(dict.fromkeys(scene.things[0].name for _, scene in sampled(example, rate)))
        assert shown == list(dict.fromkeys(scene.things[0].name for scene in example.frames))
        for question in example.questions:
            name = shown[{"first": 0, "second": 1, "last": -1}[question.fact]]
            assert question.answer in name.split()
        example = clips.motion(random)
        (question,) = [question for question in example.questions if question.fact == "direction"]
        frames = sampled(example, rate)
        paths = defaultdict(list)
        for _, scene in frames:
            for thing in scene.things:
                paths[thing.name].append((thing.row, thing.column))
        moved = [(path[-1][0] - path[0][0], path[-1][1] - path[0][1]) for path in paths.values() if path[0] != path[-1]]
        ((down, right),) = moved
        assert max(abs(down), abs(right)) >= 0.3
        assert (
            question.answer
            == {(True, True): "down", (True, False): "up", (False, True): "right", (False, False): "left"}[bool(down), down + right > 0]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_answerable_without_its_scene(family):
    """Neither the most frequent answer nor the most frequent answer to the same question is often right."""
    random = Random(f"balance {family}")
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    answers: Counter[str] = Counter()
    for _ in range(500):
        for question in FAMILIES[family](random).questions:
            if question.family == family:
                answers[question.answer] += 1
                by_question[question.text][question.answer] += 1
    assert max(answers.values()) / answers.total() <= 0.4
    often = {text: counts for text, counts in by_question.items() if counts.total() >= 20}
    guessed = sum(max(counts.values()) for counts in often.values()) / max(1, sum(counts.total() for counts in often.values()))
    assert guessed <= 0.55


def test_held_out_answers_are_balanced(corpus):
    for family in FAMILIES:
        answers = Counter(row["conversations"][1]["value"] for row in rows(corpus / "heldout" / f"{family}.jsonl"))
        assert max(answers.values()) <= 0.4 * answers.total()


def test_questions_of_a_scene_do_not_answer_each_other():
    for place in range(100):
        random = Random(f"turns {place}")
        example = images.small_image(random)
        facts = {question.text: question.fact for question in example.questions}
        conversations = writing._conversations(random, example)
        assert 1 <= len(conversations) <= writing.ROWS
        asked = [facts[text] for turns in conversations for text, _ in turns if text in facts]
        assert len(asked) == len(set(asked))


def test_vocabulary_is_small():
    words = set()
    for source, maker in MAKERS.items():
        random = Random(source)
        for _ in range(400):
            example = maker(random)
            parts = [
                example.preamble,
                *itertools.chain(*example.captions),
                *(f"{question.text} {question.answer}" for question in example.questions),
            ]
            words.update(word.lower() for part in parts for word in re.findall(r"[A-Za-z]+", part))
    assert len(words) <= 120


def test_texts_give_every_turn_without_marks(corpus):
    found = list(texts(corpus))
    turns = [turn for path in corpus.glob("train/*.jsonl") for row in rows(path) for turn in row["conversations"]]
    assert len(found) == len(turns)
    assert not any("<" in text for text in found)
    assert any("[00:0" in text for text in found) and any("FPS" in text for text in found)


def test_a_complete_corpus_is_reused_at_once(corpus, monkeypatch):
    monkeypatch.setattr(writing, "_build", lambda *_: pytest.fail("wrote a complete corpus again"))
    before = tree(corpus)
    assert write_scenes(corpus, SETTINGS) == corpus
    assert tree(corpus) == before


def test_other_settings_or_a_foreign_folder_are_refused(corpus, tmp_path):
    with pytest.raises(DataError, match=r"other settings.*scenes\.json"):
        write_scenes(corpus, ScenesSettings(seed=4))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="not a corpus"):
        write_scenes(tmp_path / "mine", SETTINGS)
    with pytest.raises(DataError, match="video is -1"):
        ScenesSettings(video=-1)


def test_killed_while_writing_leaves_no_corpus_and_the_next_call_starts_over(corpus, tmp_path):
    folder = tmp_path / "scenes"
    command = [sys.executable, "-m", "data_pipelines.scenes", "--output", str(folder)]  # the full size: not done when it is killed
    process = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2])
    while not list(tmp_path.glob(".scenes.partial-*/media/*/*/*")):
        assert process.poll() is None, "it ended before it wrote a file"
        time.sleep(0.01)
    children = [int(pid) for pid in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    for child in children:  # so slow a machine that they do not notice their parent's end
        os.kill(child, signal.SIGSTOP)
    process.kill()
    process.wait()
    assert not folder.exists() and list(tmp_path.glob(".scenes.partial-*"))
    with open(tmp_path / ".scenes.workers.lock", "r+") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what the next call waits for before it removes anything
    for child in children:
        os.kill(child, signal.SIGCONT)
    write_scenes(folder, SETTINGS)
    assert tree(folder) == tree(corpus)
    assert not list(tmp_path.glob(".scenes.partial-*"))


def test_command_reports_refusals(corpus, capsys):
    from data_pipelines.scenes.__main__ import main

    assert main(["--output", str(corpus), "--seed", "99"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_a_number_of_questions_that_no_balance_allows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MOST_TRIES", 50)
    with pytest.raises(DataError, match="motion has too few different answers for 5 questions"):
        writing._held_out_family(tmp_path, 0, "motion", 5)
