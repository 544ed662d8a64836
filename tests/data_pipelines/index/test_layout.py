"""Lengths from columns are those that `measure` gives for each sample by itself, whatever the sample and however columns are divided."""

import itertools

import numpy as np
import pytest
from small_corpus import phase, tokenizer

from data_pipelines.documents import measure
from data_pipelines.index import layout, store
from data_pipelines.index.columns import COLUMNS, ORDER, Entry, Failure, Measured, cut, pack, unpack
from data_pipelines.index.filters import Filters
from data_pipelines.index.layout import PhaseLengths
from data_pipelines.index.lengths import sample_seed
from data_pipelines.index.measures import count_text
from data_pipelines.index.pieces import PieceCounts
from data_pipelines.index.usable import Usable
from data_pipelines.media.video import VideoInfo
from data_pipelines.planning.planner import NEVER_FITS
from data_pipelines.planning.too_long import find_too_long
from data_pipelines.schema import Clip, Media, Sample, SampleError, Turn
from data_pipelines.text.marks import as_words

PHASES = [
    phase(frames=64, frames_per_second=(0.5, 4.0), max_pixels=512 * 512),
    phase(frames=3, frames_per_second=(2.0, 2.0), frame_pixels=32 * 32),
    phase(frames=150, frames_per_second=(0.1, 60.0)),
    phase(frames=64, frame_choice="qwen_vl", clip_pixels=64 * 40 * 40),
    phase(frames=9, frames_per_second=(0.5, 8.0), frame_choice="internvl", context=8192, image_budget="u1"),
    phase(frames=64, frames_per_second=(0.5, 8.0), frame_choice="llava_video"),
    phase(frames=0),
    phase(frames=0, visual_tokens=0, images=0, min_pixels=0, max_pixels=0, frame_pixels=0),
]
WORDS = ["", "\n", "a red cat", "Which? ", "é世", " [00:", "FPS.\n", as_words("the tag <video> "), "1", "\n\n", " the end."]


def random_clip(random):
    rate = float(random.choice([random.uniform(0.3, 60), 8, 10, 12.5, 24, 25, 30000 / 1001, 1 / 3]))
    frames = int(random.choice([1, 2, random.integers(1, 40), random.integers(1, 20_000)]))
    height, width = (int(side) for side in random.integers(16, 2000, 2))
    if frames > 1 and random.random() < 0.3:
        frames = min(frames, 300)
        times = np.cumsum(random.choice([0.005, 0.125, 0.5, 1.005, random.uniform(0.001, 900)], frames)).tolist()
        duration = (times[-1] - times[0]) * frames / (frames - 1)
        return VideoInfo(times[0] + duration, frames / duration, frames, height, width, times=tuple(times))
    return VideoInfo(frames / rate, rate, frames, height, width)


def random_sample(random):
    """A conversation with marks anywhere, the sizes of its images, and its clips."""
    kind = random.choice(["text", "images", "clips", "both"], p=[0.3, 0.3, 0.2, 0.2])
    marks = {"text": [], "images": ["<image>"], "clips": ["<video>"], "both": ["<image>", "<video>"]}[str(kind)]

    def text(most):
        parts = []
        for _ in range(int(random.integers(0, most + 1))):
            parts += [str(random.choice(WORDS)), str(random.choice(marks)) if marks else "", str(random.choice(["", "\n"]))]
        return "".join([*parts, str(random.choice(WORDS))])

    roles = ["user", "assistant", *(["user", "assistant"] if random.random() < 0.5 else [])]
    turns = [Turn("system", text(1)), *(Turn(role, text(3)) for role in roles)][int(random.integers(0, 2)) :]
    count = {mark: sum(turn.text.count(mark) for turn in turns) for mark in ("<image>", "<video>")}
    sizes = [tuple(int(side) for side in random.integers(16, 3000, 2)) for _ in range(count["<image>"])]
    return turns, sizes, [random_clip(random) for _ in range(count["<video>"])]


def measured(turns, sizes, clips):
    media = Media("x", data=b"")
    sample = Sample("x", tuple(turns), (media,) * len(sizes), (Clip((media,)),) * len(clips))
    text, before = count_text(sample, tokenizer())
    return Measured(text, sizes, clips, before, [(5, 7)] * len(sizes), ["transparency"] * len(clips))


def expected(sample, settings, seed):
    try:
        return [*measure(*sample, settings, tokenizer(), seed), 1]
    except SampleError:
        return [NEVER_FITS] * 4


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(7)
    return [random_sample(random) for _ in range(250)]


@pytest.fixture(scope="module")
def entries(samples):
    """With some samples that cannot be used: never measured, or measured before."""
    entries = [Entry(measured(*sample), None) for sample in samples]
    for number in (0, 17, 249):
        entries[number] = Entry(None, Failure("broken_json", "é broken"))
    entries[40] = Entry(entries[40].measured, Failure("missing_file", "away"))
    return entries


@pytest.mark.parametrize("settings", PHASES, ids=range(len(PHASES)))
def test_lengths_of_any_samples_are_those_of_each(samples, entries, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_CLIPS", 50)
    lengths = PhaseLengths(pack(entries), settings, 3, "s", PieceCounts(tokenizer(), tmp_path / "pieces.npz"), Filters(()))
    wanted = np.array([expected(sample, settings, sample_seed(3, "s", number)) for number, sample in enumerate(samples)])
    wanted[[number for number, entry in enumerate(entries) if entry.failure]] = 0
    assert len(lengths) == 250
    np.testing.assert_array_equal(lengths[:], wanted)
    np.testing.assert_array_equal(lengths[13:77], wanted[13:77])
    assert lengths[5:5].shape == (0, 4)
    some = np.random.default_rng(0).integers(0, 250, 900)
    np.testing.assert_array_equal(lengths[some], wanted[some])
    np.testing.assert_array_equal(np.concatenate([lengths[np.array([number])] for number in range(250)]), wanted)


def test_columns_hold_what_is_known_and_can_be_cut_anywhere(entries):
    columns = pack(entries)
    assert {name: (values.dtype, values.shape[1:]) for name, values in columns.items()} == {
        name: (np.dtype(column.kind), column.shape) for name, column in COLUMNS.items()
    }
    assert unpack(columns) == entries
    for start, stop in ((0, 0), (0, 1), (17, 18), (30, 250), (249, 250), (250, 250)):
        assert unpack(cut(columns, start, stop)) == entries[start:stop]


@pytest.mark.parametrize("edges", [[0, 250], [0, 1, 17, 17, 18, 300, 250]])
def test_parts_that_follow_one_another_make_the_same_bytes(entries, tmp_path, edges):
    whole = pack(entries)
    parts = [pack(entries[start:stop]) for start, stop in itertools.pairwise(edges)]
    store.write(tmp_path / "index", "id", parts, COLUMNS)
    description = store.describe(tmp_path / "index", "id", COLUMNS)
    found = store.load(description, COLUMNS)
    assert all((found[name] == whole[name]).all() and found[name].dtype == whole[name].dtype for name in COLUMNS)
    assert description.facts.failures == {"broken_json": 3, "missing_file": 1}
    usable = [entry.measured.conversions for entry in entries if not entry.failure]
    assert description.facts.conversions == {"transparency": sum(map(len, usable))}
    for name in COLUMNS:  # they are what numpy reads
        (path,) = (tmp_path / "index").glob(f"{name}-*.npy")
        assert (np.load(path, mmap_mode="r") == whole[name]).all()
    store.write(tmp_path / "joined", "other", [found], ORDER, description.facts)
    joined = store.describe(tmp_path / "joined", "other", ORDER)
    assert joined.checksums(ORDER) == description.checksums(ORDER)
    assert store.describe(tmp_path / "joined", "another", ORDER) is None


def test_a_large_folder_is_verified_once_on_a_host_and_after_a_change(entries, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    hashed = []
    sha256 = store._sha256
    monkeypatch.setattr(store, "_sha256", lambda values: hashed.append(len(values)) or sha256(values))
    store.write(tmp_path, "id", [pack(entries)], COLUMNS)

    def load():
        hashed.clear()
        store.load(store.describe(tmp_path, "id", COLUMNS), COLUMNS)
        return len(hashed)

    assert load() == len(COLUMNS) and load() == 0
    monkeypatch.setattr(store.socket, "gethostname", lambda: "other")
    assert load() == len(COLUMNS) and load() == 0
    (path,) = tmp_path.glob("sizes-*.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(store.Damaged, match="checksum of sizes-"):
        load()


@pytest.mark.parametrize("failures", [[], [0], [9], [0, 1, 2], [2, 5, 6, 9], list(range(10))])
def test_usable_samples_are_all_but_the_failures(failures):
    usable = Usable(10, np.array(failures, np.int64))
    wanted = [number for number in range(10) if number not in failures]
    assert len(usable) == len(wanted) and usable.tolist() == wanted
    assert usable[2:5].tolist() == wanted[2:5]
    assert [int(usable[np.array([place])][0]) for place in range(len(usable))] == wanted


def test_too_long_samples_are_counted_and_the_first_are_named(monkeypatch):
    random = np.random.default_rng(0)
    lengths = random.integers(0, 100, (5000, 4))
    lengths[random.random(5000) < 0.1] = NEVER_FITS
    usable, budget = np.flatnonzero(random.random(5000) < 0.8), np.array([95, 90, 98, 98])
    monkeypatch.setattr("data_pipelines.planning.too_long._BLOCK", 64)
    found = find_too_long(lengths, usable, budget)
    over = usable[(lengths[usable] > budget).any(axis=1)]
    assert found.samples.tolist() == over[:1000].tolist() and (found.lengths == lengths[over[:1000]]).all()
    assert (found.total, found.usable, found.not_taken) == (len(over), len(usable), (lengths[over, 0] == NEVER_FITS).sum())
    taken = lengths[over[lengths[over, 0] < NEVER_FITS]]
    assert found.passed.tolist() == (taken > budget).sum(axis=0).tolist() and found.longest.tolist() == taken.max(axis=0).tolist()


def test_times_beyond_the_table_are_counted_too(tmp_path):
    pieces = PieceCounts(tokenizer(), tmp_path / "pieces.npz")
    times = np.array([0, 5, 5, 359_999, 10**9, 59_99, 0])
    counts = [len(tokenizer().encode(f"\n{layout_text(time)}")) for time in times.tolist()]
    assert pieces.marks(times).tolist() == counts == pieces.marks(times).tolist()
    assert pieces.marks(np.zeros(0, np.int64)).tolist() == []


def layout_text(hundredths):
    minutes, rest = divmod(hundredths / 100, 60)
    return f"[{int(minutes):02d}:{rest:05.2f}]:"
