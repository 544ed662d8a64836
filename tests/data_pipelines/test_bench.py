import json
import time

import pytest
import small_corpus

from data_pipelines import bench

NAMES = ("mixed", "text")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    small_corpus.write_corpus(root, repeats=3)
    small_corpus.write_sums(root / "text.jsonl", 40)
    shared = {"segments": 64, "rows_per_step": 2}
    visual = {"visual_tokens": 512, "images": 64, "min_pixels": 1024, "max_pixels": 128 * 128, "frames": 4, "frame_pixels": 64 * 64}
    values = {
        "curriculum": ("text", "all"),
        "phases": {
            "text": shared | {"context": 256, "steps": 6, "mixture": {"text": 1.0}},
            "all": shared | visual | {"context": 1024, "steps": 6, "mixture": {"mixed": 1.0, "text": 1.0}},
        },
        "tokenizer": {"path": str(small_corpus.GOLDEN / "tokenizer.json"), "add_special_tokens": True},
        "data": {
            "sources": {
                name: {"format": "jsonl", "path": str(root / f"{name}.jsonl"), "media_root": str(root / "media")} for name in NAMES
            },
            "index_folder": str(root / "index"),
        },
    }
    path = root / "config.py"
    path.write_text(f"from ml_collections import ConfigDict\n\ndef get_config(arg=None):\n    return ConfigDict({values!r})\n")
    return path


def test_each_phase_is_one_object(config, capsys):
    assert bench.main([f"--config={config}", "--steps=3", "--threads=2", "--json"]) == 0
    text, everything = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (text["phase"], everything["phase"], text["rows"], text["threads"]) == ("text", "all", 6, 2)
    for found in (text, everything):
        assert sum(found["stages"].values()) == pytest.approx(1) and min(found["stages"].values()) > -1e-6
        assert set(found["stages"]) == {*bench.STAGES, "reading rows", "other"}
        assert 0.5 < found["fill"] <= 1 and found["seconds"] > 0 and found["first_row_seconds"] > 0 and found["memory_mib"] > 50
        assert found["tokens"] * found["seconds"] == pytest.approx(found["fill"] * found["rows"] * (256 if found is text else 1024))
    assert text["images"] == text["frames"] == text["visual_tokens"] == 0 and text["visual_fill"] is None
    assert text["stages"]["decoding images"] == 0 < text["stages"]["tokenizing"]
    assert everything["images"] > 0 < everything["frames"] and 0 < everything["visual_fill"] <= 1
    assert everything["stages"]["decoding frames"] > 0 < everything["stages"]["resizing"]


def test_the_report_names_one_phase(config, capsys):
    assert bench.main([f"--config={config}", "--phase=all", "--steps=1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("all: 2 rows in ") and "a second of one core" in out and "in one thread: " in out and "text:" not in out


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--phase=sft"], 65, "there is no phase sft; the phases are text, all"),
        (["--steps=0"], 2, "--steps and --threads must be 1 or more"),
    ],
)
def test_what_it_refuses(config, capsys, flags, status, message):
    try:
        assert bench.main([f"--config={config}", *flags]) == status
    except SystemExit as error:
        assert error.code == status
    assert message in capsys.readouterr().err


def test_time_in_an_inner_function_counts_once():
    """The time of a function that calls another one is its own; a row of frames is counted one by one."""
    clock = bench._Clock()

    def spin(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    inner = clock.timed("inner", lambda: spin(0.02))

    def outer():
        spin(0.01)
        inner()
        spin(0.01)
        inner()

    began = time.thread_time()
    clock.timed("outer", outer)()
    whole = time.thread_time() - began
    assert clock.seconds["inner"] >= 0.04 and clock.seconds["outer"] >= 0.02 and clock.seconds["inner"] + clock.seconds["outer"] <= whole
    frames = clock.timed_iterator("frames", lambda: iter([1, 2, 3]))
    assert list(frames()) == [1, 2, 3] and clock.counts["<lambda>"] == 3 + 2
