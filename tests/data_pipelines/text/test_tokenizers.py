import concurrent.futures
import json
import pathlib
import random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.schema import DataError, SampleError
from data_pipelines.text.tokenizers import SPECIAL_TOKENS, load_tokenizer, train_sentencepiece

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
TEXTS = [
    "How many red circles are there?\n",
    "There are 12.",
    "What is left of the blue square?",
    "na\u00efve \u2013 3\u00bd\n\n two  spaces",
] * 20
HOSTILE = [
    "<IMG_CONTEXT>",
    "<|im_end|>",
    "<|endoftext|>",
    "a<img>b</img>",
    "<<|im_start|>>",
    "<|im_start|>user\n<|im_start|>",
    "</box><box>",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "demo.model"
    train_sentencepiece(TEXTS, path, 400)
    return path


@pytest.fixture(scope="module")
def both(model_file):
    return {"sentencepiece": load_tokenizer(model_file, True), "hugging_face": load_tokenizer(GOLDEN / "tokenizer.json", True)}


@pytest.fixture(params=["sentencepiece", "hugging_face"])
def tokenizer(request, both):
    return both[request.param]


def test_missing_special_tokens_follow_the_vocabulary_in_order(tokenizer):
    base = tokenizer.vocabulary - len(SPECIAL_TOKENS)
    assert [tokenizer.special[text] for text in SPECIAL_TOKENS] == list(range(base, tokenizer.vocabulary))


def test_special_tokens_the_tokenizer_has_are_kept(tmp_path):
    content = json.loads((GOLDEN / "tokenizer.json").read_text())
    form = content["added_tokens"][0]
    content["added_tokens"] += [
        form | {"id": 700, "content": "<|im_start|>"},
        form | {"id": 701, "content": "<|im_end|>", "special": False},
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path, True)
    assert (tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]) == (700, 701)
    assert [tokenizer.special[text] for text in ("<IMG_CONTEXT>", "<img>", "</img>")] == [702, 703, 704]
    assert tokenizer.vocabulary == 700 + len(SPECIAL_TOKENS)
    assert {700, 701}.isdisjoint(tokenizer.encode("<|im_start|><|im_end|>"))


def test_without_permission_a_missing_special_token_is_an_error(model_file):
    for path in (model_file, GOLDEN / "tokenizer.json"):
        with pytest.raises(DataError, match=r"<IMG_CONTEXT>.*<\|im_end\|>.*add_special_tokens=True"):
            load_tokenizer(path, False)


@pytest.mark.parametrize("text", HOSTILE)
def test_special_text_is_encoded_as_plain_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert set(tokenizer.special.values()).isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_special_text_in_a_model_with_its_own_symbols(tmp_path):
    path = tmp_path / "symbols.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(path.with_suffix("")),
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["<img>"],
        control_symbols=["<|im_end|>"],
        normalization_rule_name="nfkc",
        add_dummy_prefix=False,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(path, True)
    assert set(tokenizer.special.values()).isdisjoint(tokenizer.encode("<img> and <|im_end|>"))
    assert tokenizer.special["<img>"] < 10 and tokenizer.special["<|im_end|>"] < 10
    with pytest.raises(SampleError) as caught:  # wide brackets, which NFKC turns into the symbol
        tokenizer.encode("\uff1cimg\uff1e")
    assert caught.value.reason == "bad_text"


def test_special_ids_decode_to_their_names(tokenizer):
    ids = [tokenizer.special["<img>"], *tokenizer.encode("two \u2581 words"), tokenizer.special["<|im_end|>"]]
    assert tokenizer.decode(ids) == "<img>two \u2581 words<|im_end|>"


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from([*" \u2581\n\t\x00<|>a\ufffd\u2047", "<img>", "<|im_end|>", "<unk>"])).map("".join))
def test_any_text_round_trips(both, text):
    for tokenizer in both.values():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(SampleError) as caught:
        tokenizer.encode("a\ud800b")
    assert caught.value.reason == "bad_text"


def test_training_is_deterministic_quiet_and_atomic(tmp_path, capfd):
    for name in ("a.model", "b.model"):
        train_sentencepiece(TEXTS, tmp_path / name, 400)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model", "b.model"]
    assert load_tokenizer(tmp_path / "a.model", True).vocabulary <= 400 + len(SPECIAL_TOKENS)


def test_training_refuses_what_cannot_work(tmp_path):
    with pytest.raises(DataError, match="could be trained"):
        train_sentencepiece(TEXTS, tmp_path / "a.model", 100)
    with pytest.raises(DataError, match="could be trained"):
        train_sentencepiece([], tmp_path / "a.model", 400)
    with pytest.raises(DataError, match=r"\.model"):
        train_sentencepiece(TEXTS, tmp_path / "a.txt", 400)


def test_truncation_and_padding_of_a_file_are_not_applied(tmp_path):
    content = json.loads((GOLDEN / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer, plain = load_tokenizer(tmp_path, True), load_tokenizer(GOLDEN / "tokenizer.json", True)
    for text in ("a", "a text of more than four tokens, or so one thinks"):
        assert tokenizer.encode(text) == plain.encode(text)


def test_fingerprint_changes_with_the_ids(model_file, tmp_path):
    train_sentencepiece([*TEXTS, "other words"] * 3, tmp_path / "other.model", 410)
    same, other = load_tokenizer(model_file, True), load_tokenizer(tmp_path / "other.model", True)
    assert same.fingerprint == load_tokenizer(model_file, True).fingerprint != other.fingerprint


def test_files_that_are_no_tokenizers(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path, True)
    for name, content in (("a.model", b"abc"), ("tokenizer.json", b"{}"), ("b.json", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_tokenizer(tmp_path / name, True)


def test_threads_share_a_tokenizer(tokenizer):
    texts = ["".join(random.Random(seed).choices("how many <img> \u2581\u65e5 12", k=200)) for seed in range(64)]
    expected = [tokenizer.encode(text) for text in texts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == expected
        assert list(pool.map(tokenizer.decode, expected)) == texts
