"""Answers in pieces: what is streamed is the whole answer, stop texts end it, and only finished characters are shown."""

import dataclasses
import io
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.documents import prompt_document
from data_pipelines.loading.prompts import prompt_inputs
from data_pipelines.schema import Media, PhaseSettings, Sample, SampleError, Turn
from data_pipelines.text.tokenizers import load_tokenizer
from neo_jax.inference.answering import Answerer, Text, _room
from neo_jax.inference.generate import greedy
from neo_jax.inference.sampling import Sampling
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices
from tests.neo_jax.tiny_model import model, on_mesh, parameters

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
LIMITS = PhaseSettings("chat", 1, 256, 64, 8, 1, 1024, 64 * 64, 4, (1.0, 1.0), 1024, {})


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "tokenizer.json", add_special_tokens=True)


def question() -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), (10, 200, 30)).save(file, "PNG")
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A box."), Turn("user", "Really?"))
    return Sample("q", turns, (Media("a.png", data=file.getvalue()),))


def answerer_on(mesh, tokenizer, **axes):
    settings = model(vocabulary=tokenizer.vocabulary + 9, kv_heads=2)
    return Answerer(settings, Computation(), on_mesh(settings, "neo", parameters(settings, "neo", 5, scale=0.24)), tokenizer, LIMITS)


@pytest.fixture(params=[{}, {"fsdp": 4, "tensor": 2}], ids=["one device", "mesh"])
def answerer(request, tokenizer):
    mesh = make_mesh(**request.param) if request.param else make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        yield answerer_on(mesh, tokenizer)


def test_the_stream_is_the_greedy_answer(answerer, tokenizer):
    parts = list(answerer.stream(question(), Sampling(), 11))
    asked = dataclasses.replace(question(), turns=(*question().turns, Turn("assistant", "")))
    document = prompt_document(asked, LIMITS, tokenizer, 0)
    special = tokenizer.special
    banned = (*(special[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>")), *range(tokenizer.vocabulary, answerer.model.vocabulary))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        values = on_mesh(answerer.model, "neo", parameters(answerer.model, "neo", 5, scale=0.24))
        inputs = to_devices(prompt_inputs([document], 64, 64, special["<IMG_CONTEXT>"]))
        ids = greedy(answerer.model, Computation(), values, inputs, 11, special["<|im_end|>"], banned)[0].tolist()
    ids = ids[: ids.index(special["<|im_end|>"])] if special["<|im_end|>"] in ids else ids
    assert "".join(parts) == tokenizer.decode(ids) and len(parts) > 1


def test_a_stop_text_ends_the_answer(answerer):
    whole = "".join(answerer.stream(question(), Sampling(temperature=1.0, seed=3), 16))
    stop = whole[5:8]
    assert "".join(answerer.stream(question(), Sampling(temperature=1.0, seed=3), 16, [stop, "never"])) == whole[: whole.index(stop)]


def test_what_does_not_fit_is_said(answerer):
    with pytest.raises(SampleError, match=r"has \d+ tokens, with 250 for the answer \d+ of 256"):
        next(answerer.stream(question(), Sampling(), 250))
    with pytest.raises(SampleError, match="text only"):
        next(dataclasses.replace(answerer, limits=dataclasses.replace(LIMITS, visual_tokens=0)).stream(question(), Sampling(), 4))


def added(text: Text, *answers: str) -> list[str]:
    return [part for number, answer in enumerate(answers) for part in text.add(answer, whole=number == len(answers) - 1)]


def test_half_a_character_is_held_back():
    assert added(Text([]), "a\ufffd", "a\u00e9\ufffd", "a\u00e9\u00e8") == ["a", "\u00e9", "\u00e8"]
    assert added(Text([]), "a\ufffd", "a\ufffd") == ["a", "\ufffd"]


def test_what_may_become_a_stop_text_is_held_back():
    text = Text(["END", "stop"])
    assert added(text, "on E", "on EN", "on ENter s", "on ENter sto", "on ENter stop it") == [
        "on ",
        "EN" + "ter ",
    ]
    assert text.stopped
    assert added(Text(["END"]), "on E", "on EN") == ["on ", "EN"]


def test_rooms_are_few():
    rooms = [_room(tokens) for tokens in range(1, 5000)]
    assert all(tokens <= room <= max(64, 1.5 * tokens) for tokens, room in enumerate(rooms, 1))
    assert len(set(rooms)) == 14 and np.all(np.diff(rooms) >= 0)
