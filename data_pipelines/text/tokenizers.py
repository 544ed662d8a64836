"""SentencePiece and Hugging Face tokenizer.json tokenizers behind one interface, with NEO's special tokens."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import sentencepiece
import tokenizers

from data_pipelines.schema import DataError, SampleError
from data_pipelines.storage import write_whole

# In the reference's order, in which missing tokens get their ids.
SPECIAL_TOKENS = (
    "<IMG_CONTEXT>",
    "<img>",
    "</img>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<|im_start|>",
    "<|im_end|>",
    "<|action_start|>",
    "<|action_end|>",
    "<|plugin|>",
    "<|interpreter|>",
)
_SHORT, _SHORT_TEXTS = 64, 4096  # largest number of characters of a text whose ids are cached, and number of cached texts
SPACE_SYMBOL = "\u2581"  # SentencePiece represents a space by this character, so the character itself needs special handling


class Tokenizer:
    """Converts text to ids and back. Can be shared between threads.

    Attributes:
      special: id of every special token, including SPECIAL_TOKENS.
      vocabulary: number of ids, including special tokens: the smallest number of rows of an embedding table.
      fingerprint: hash that changes whenever an id may change.
    """

    def __init__(self, model: _HuggingFace | _SentencePiece, special: dict[str, int], vocabulary: int, fingerprint: str):
        self.special = special
        self.vocabulary = vocabulary
        self.fingerprint = fingerprint
        self._model = model
        self._special_text = {token: text for text, token in special.items()}
        # Texts that repeat in many rows ("assistant\n", a line's end, a common question) are encoded once.
        self._short = functools.lru_cache(_SHORT_TEXTS)(lambda text: tuple(self._encode(text)))
        self._inside_special = re.compile("|".join(f"(?<={re.escape(text[:1])})(?={re.escape(text[1:])})" for text in sorted(special)))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of plain text; none of them is a special token, even if the text contains the name of one.

        The text is split inside every occurrence of a special token's name, and the parts are encoded separately.
        Raises SampleError "bad_text" for text that is not valid Unicode (half a surrogate pair), or that the tokenizer's own normalisation
        converts to a special token.
        """
        return list(self._short(text)) if len(text) <= _SHORT else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SampleError("bad_text", f"text with half of a surrogate pair cannot be encoded ({error}); repair the text") from error
        ids = [token for part in self._inside_special.split(text) if part for token in self._model.encode(part)]
        for token in self._special_text.keys() & ids:
            raise SampleError("bad_text", f"the tokenizer turns {text!r} into the special token {self._special_text[token]}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; special tokens are written as their names."""
        parts = []
        for is_special, run in itertools.groupby(map(int, ids), key=self._special_text.__contains__):
            same_kind = list(run)
            parts.append("".join(self._special_text[token] for token in same_kind) if is_special else self._model.decode(same_kind))
        return "".join(parts)


def load_tokenizer(path: str | pathlib.Path, add_special_tokens: bool) -> Tokenizer:
    """Opens a tokenizer.json, a folder with one, or a SentencePiece *.model.

    Args:
      path: path of the file or folder.
      add_special_tokens: True to give missing SPECIAL_TOKENS the ids after the tokenizer's vocabulary, in order. If False, a missing token
        is an error, since the embedding table of a released model has rows for exactly the ids of its tokenizer.

    Raises:
      DataError: no such file, not a tokenizer, or special tokens missing.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"tokenizer {file}: no such file; give a tokenizer.json, a folder with one, or a SentencePiece .model file")
    content = file.read_bytes()
    try:
        model = _SentencePiece(content) if file.suffix == ".model" else _HuggingFace(content)
    except Exception as error:  # `tokenizers` raises bare Exceptions, sentencepiece RuntimeErrors, for broken files
        raise DataError(f"tokenizer {file}: neither a SentencePiece .model nor a tokenizer.json ({error})") from error
    missing = [text for text in SPECIAL_TOKENS if text not in model.special]
    if missing and not add_special_tokens:
        raise DataError(
            f"tokenizer {file} lacks the special tokens {' '.join(missing)}: use the tokenizer of a released NEO model, or load it with "
            "add_special_tokens=True, which gives them the ids after the vocabulary"
        )
    special = model.special | {text: model.vocabulary + index for index, text in enumerate(missing)}
    fingerprint = hashlib.sha256(content + repr(sorted(special.items())).encode()).hexdigest()
    return Tokenizer(model, special, model.vocabulary + len(missing), fingerprint)


def train_sentencepiece(texts: Iterable[str], path: str | pathlib.Path, vocabulary: int) -> None:
    """Trains a byte-pair SentencePiece model that round-trips any text, and writes it to `path` (ending in .model).

    Deterministic: the same texts in the same order give the same file.

    Args:
      texts: training texts.
      path: path of the file, which is written atomically.
      vocabulary: largest number of pieces; there are fewer if the texts do not yield that many. At least 257 (one for each byte, one for
        unknown) plus the number of different characters.
    """
    file = pathlib.Path(path)
    if file.suffix != ".model":
        raise DataError(f"{file}: a SentencePiece file ends in .model")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{file}: no tokenizer could be trained with {vocabulary} pieces ({error}); give more text or more pieces"
        ) from error
    write_whole(file, model.getvalue())


class _HuggingFace:
    def __init__(self, content: bytes):
        self._model = tokenizers.Tokenizer.from_str(content.decode())
        self._model.no_truncation()
        self._model.no_padding()
        known = self._model.get_vocab(with_added_tokens=True)
        self.vocabulary = max(known.values()) + 1
        self.special = {token.content: index for index, token in self._model.get_added_tokens_decoder().items() if token.special}
        self.special |= {text: known[text] for text in SPECIAL_TOKENS if text in known}

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=False)


class _SentencePiece:
    def __init__(self, content: bytes):
        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        self.vocabulary = self._model.get_piece_size()
        pieces = {self._model.id_to_piece(index): index for index in range(self.vocabulary)}
        self.special = {text: index for text, index in pieces.items() if text in SPECIAL_TOKENS or self._model.is_control(index)}
        self._space_symbol = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()]

    def encode(self, text: str) -> list[int]:
        # Encoded as bytes, since SentencePiece would decode SPACE_SYMBOL as a space.
        parts = [self._model.encode(part) if part else [] for part in text.split(SPACE_SYMBOL)]
        return [token for index, part in enumerate(parts) for token in (self._space_symbol if index else []) + part]

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)
