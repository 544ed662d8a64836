"""Pages about a configuration's input: what stands in them is what training would read."""

import html
import re

import numpy as np
import pytest
import small_corpus

from data_pipelines import inspect
from data_pipelines.batch import document_intervals
from data_pipelines.inspection import drawing
from data_pipelines.inspection.page import marked_text
from data_pipelines.schema import NO_LABEL, Document


@pytest.fixture
def configuration(tmp_path):
    """Two phases over the mixed corpus, whose first row is held out too, and a source with a duplicate and a row that is too long."""
    small_corpus.write_corpus(tmp_path)
    rows = [{"conversations": small_corpus.turns("Same?")}] * 2 + [{"conversations": small_corpus.turns("long " * 900), "license": "CC0"}]
    small_corpus.write_jsonl(tmp_path / "text.jsonl", rows + [{"conversations": small_corpus.turns(f"{n}?", "<b>&")} for n in range(6)])
    small_corpus.write_jsonl(tmp_path / "held.jsonl", [{"conversations": small_corpus.turns("<image>?"), "image": "pictures/0.png"}])
    phase = {"steps": 3, "rows_per_step": 2, "context": 512, "segments": 8}
    pictures = {"visual_tokens": 256, "images": 32, "min_pixels": 1024, "max_pixels": 1 << 16, "frames": 4, "frame_pixels": 4096}
    source = {"format": "jsonl", "media_root": str(tmp_path / "media")}
    values = {
        "phases": {"words": phase | {"mixture": {"text": 1.0}}, "all": phase | pictures | {"mixture": {"text": 1.0, "mixed": 3.0}}},
        "curriculum": ("words", "all"),
        "data": {
            "sources": {name: source | {"path": str(tmp_path / f"{name}.jsonl")} for name in ("text", "mixed")},
            "heldout": {"text": source | {"path": str(tmp_path / "held.jsonl")}},
            "index_folder": str(tmp_path / "index"),
        },
        "tokenizer": {"path": str(small_corpus.GOLDEN / "tokenizer.json"), "add_special_tokens": True},
    }
    path = tmp_path / "mine.py"
    path.write_text(f"from ml_collections import ConfigDict\ndef get_config(arg=None):\n    return ConfigDict({values!r})\n")
    return path


def test_a_page_a_phase(configuration, tmp_path, capsys):
    assert inspect.main([f"--config={configuration}", f"--output={tmp_path / 'pages'}", "--rows=2"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "pages" / f"{name}.html") for name in ("words", "all")]
    words, everything = ((tmp_path / "pages" / f"{name}.html").read_text() for name in ("words", "all"))
    for page in (words, everything):
        assert "http" not in page and "<script" not in page
        assert page.count('class="strip"') == page.count('class="mask"') == 2
    assert "1 of 9 do not fit a row (1 pass context)" in words and "keys that are not read: license" in words
    assert "text: 1 of 9 samples are equal to another one" in words
    assert "1 of held-out source text's samples show media of training source mixed, such as held.jsonl:1: pictures/0.png" in html.unescape(
        words
    )
    assert "equal samples" not in words  # the held-out source is another one of the same name
    assert "data:image/jpeg" not in words and "data:image/jpeg" in everything
    assert "<td>25.0%</td>" in everything and "<td>75.0%</td>" in everything
    assert re.search(r"<mark>&lt;b&gt;&amp;&lt;\|im_end\|&gt;", words)


def test_what_cannot_be_used_is_one_sentence(configuration, tmp_path, capsys):
    assert inspect.main([f"--config={tmp_path / 'none.py'}", f"--output={tmp_path}"]) == 65
    assert "no such file" in capsys.readouterr().err
    assert inspect.main([f"--config={configuration}", "--output=/dev/null/pages"]) == 65
    assert "cannot write to /dev/null/pages" in capsys.readouterr().err


def test_marked_text_shows_what_is_learned():
    tokenizer = small_corpus.tokenizer()
    told, said = tokenizer.encode("a < b"), tokenizer.encode("yes")
    pad = tokenizer.special["<IMG_CONTEXT>"]
    tokens = np.array([*told, pad, pad, *said], np.int32)
    labels = np.where(np.arange(len(tokens)) >= len(told) + 2, tokens, NO_LABEL)
    document = Document(tokens, labels, np.array([[1, 2]], np.int32), np.zeros((2, 3072), np.uint8))
    assert marked_text(document, tokenizer) == "a &lt; b[2 image tokens]<mark>yes</mark>"


def test_drawings():
    assert drawing.runs(np.array([True, True, False, True])) == [(0, 2), (3, 4)] and drawing.runs(np.zeros(3, bool)) == []
    assert "none" in drawing.histogram(np.zeros(0), "Clips", "frames")
    counts = [int(count) for count in re.findall(r"x: (\d+)</title>", drawing.histogram(np.array([1.0, 1.0, 2.0, 9.0]), "n", "x"))]
    assert sum(counts) == 4
    assert document_intervals(4, [1], [2]).hi.tolist() == [1, 3, 3, 4]
