"""A tokenizer's file with the special tokens gives the ids that load_tokenizer adds to the file without them."""

import json
import pathlib

import pytest

from data_pipelines.schema import DataError
from data_pipelines.text.special_tokens import write_with_special_tokens
from data_pipelines.text.tokenizers import SPECIAL_TOKENS, load_tokenizer, train_sentencepiece

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "tokenizer.json"
TEXT = "How many cats? <img> <|im_end|> héllo  wörld\n\t▁"


@pytest.fixture
def plain(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    """A tokenizer of each kind without NEO's special tokens."""
    train_sentencepiece(["How many cats?", "Two.", "héllo wörld"] * 3, tmp_path / "plain.model", 400)
    content = json.loads(GOLDEN.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in SPECIAL_TOKENS]
    for text in SPECIAL_TOKENS:
        content["model"]["vocab"].pop(text, None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return {"sentencepiece": tmp_path / "plain.model", "hugging_face": tmp_path / "tokenizer.json"}


@pytest.mark.parametrize("kind", ["sentencepiece", "hugging_face"])
def test_the_ids_are_those_of_adding_them_while_loading(kind: str, plain: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    before = plain[kind].read_bytes()
    (tmp_path / "new").mkdir()
    written = write_with_special_tokens(plain[kind], tmp_path / "new")
    assert written.parent == tmp_path / "new" and plain[kind].read_bytes() == before
    wanted, found = load_tokenizer(plain[kind], True), load_tokenizer(written, False)
    assert found.special == wanted.special and found.vocabulary == wanted.vocabulary
    ids = wanted.encode(TEXT)
    assert found.encode(TEXT) == ids and not set(ids) & set(found.special.values())
    assert found.decode([*ids, found.special["<img>"]]) == wanted.decode([*ids, wanted.special["<img>"]])
    assert write_with_special_tokens(written, tmp_path) == written, "nothing is missing: the file itself"


def test_ids_with_gaps_are_refused(plain: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    content = json.loads(plain["hugging_face"].read_text())
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] += 100
    (tmp_path / "gap.json").write_text(json.dumps(content))
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="its ids have gaps"):
        write_with_special_tokens(tmp_path / "gap.json", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
