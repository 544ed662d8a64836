"""`python -m data_pipelines.index`: what it builds is what training opens."""

import os
import signal

import pytest
import small_corpus

from data_pipelines.index import __main__ as command
from data_pipelines.index import measures, work
from data_pipelines.index.lengths import LengthIndex

CONFIG = """
import ml_collections

def get_config(arg=None):
    return ml_collections.ConfigDict({{
        "curriculum": (),
        "data": {{
            "index_folder": {folder!r},
            "sources": {{"mixed": {{"format": "jsonl", "path": {path!r}, "media_root": {media!r}}}}},
            "heldout": {{"held": {{"format": "jsonl", "path": {path!r}, "media_root": {media!r}}}}},
        }},
        "tokenizer": {{"path": {tokenizer!r}}},
    }})
"""


@pytest.fixture
def config(tmp_path):
    path = small_corpus.write_corpus(tmp_path)
    values = {"folder": str(tmp_path / "index"), "path": str(path), "media": str(tmp_path / "media")}
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(**values, tokenizer=str(small_corpus.GOLDEN / "tokenizer.json")))
    return f"--config={file}"


@pytest.mark.parametrize("processes", [1, 2])
def test_it_builds_what_training_opens(config, tmp_path, capsys, monkeypatch, processes):
    monkeypatch.setattr(work, "CHUNK", 3)
    assert command.main([config, f"--processes={processes}"]) == 0
    assert capsys.readouterr().out == "mixed: 12 of 12 samples can be used\nheld: 12 of 12 samples can be used\n"
    monkeypatch.setattr(measures, "inspect", None)  # nothing is left to measure
    LengthIndex.open(small_corpus.jsonl(tmp_path / "mixed.jsonl"), small_corpus.tokenizer(), tmp_path / "index")


def test_what_cannot_be_used_is_named(config, tmp_path, capsys):
    (tmp_path / "media/pictures/0.png").unlink()
    assert command.main([config]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"mixed: 9 of 12 samples can be used (3 missing_file: {tmp_path / 'index/mixed.unusable.jsonl'})"
    (tmp_path / "mixed.jsonl").write_text("")
    assert command.main([config]) == 65
    assert "index: source 'mixed'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_the_next_call_goes_on(config, tmp_path, capsys, monkeypatch, number):
    monkeypatch.setattr(work, "CHUNK", 3)
    measured, inspect = [], measures.inspect

    def signalled(sample, tokenizer):
        measured.append(sample.key)
        if len(measured) == 4:
            os.kill(os.getpid(), number)
        return inspect(sample, tokenizer)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(measures, "inspect", signalled)
        assert command.main([config, "--processes=1"]) == 75
    assert "what was measured is kept" in capsys.readouterr().err and signal.getsignal(number) == handler
    assert 1 <= len(list(tmp_path.glob("index/shards/*/parts/*.npz"))) < 4
    assert command.main([config]) == 0
