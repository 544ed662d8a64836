"""Writes a tokenizer file with NEO's special tokens, for a tokenizer that lacks some."""

from __future__ import annotations

import pathlib

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as protocol  # its classes are generated at import

from data_pipelines.schema import DataError
from data_pipelines.storage import write_whole
from data_pipelines.text.tokenizers import SPECIAL_TOKENS, load_tokenizer


def write_with_special_tokens(path: str | pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes a tokenizer with its missing special tokens added, with the same ids as load_tokenizer(path, True).

    Args:
      path: path of a tokenizer.json, of a folder with one, or of a SentencePiece *.model. The file is not changed.
      folder: existing folder for the new file, which is tokenizer.json or tokenizer.model.

    Returns:
      Path of the new file, or of the old one if it lacks no special token.

    Raises:
      DataError: as load_tokenizer; or the ids of the file have gaps, so that the new tokens would get other ids.
    """
    file = pathlib.Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    wanted = load_tokenizer(file, add_special_tokens=True)
    content = file.read_bytes()
    if file.suffix == ".model":
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        missing = [text for text in SPECIAL_TOKENS if wanted.special[text] >= processor.get_piece_size()]
        if not missing:
            return file
        model = protocol.ModelProto.FromString(content)  # type: ignore[attr-defined]
        for text in missing:
            model.pieces.add(piece=text, score=0.0, type=protocol.ModelProto.SentencePiece.CONTROL)  # type: ignore[attr-defined]
        output, written = folder / "tokenizer.model", model.SerializeToString()
    else:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        missing = [text for text in SPECIAL_TOKENS if tokenizer.token_to_id(text) is None]
        if not missing:
            return file
        tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in missing])
        output, written = folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode()
    write_whole(output, written)
    if load_tokenizer(output, add_special_tokens=False).special != wanted.special:
        output.unlink()
        raise DataError(
            f"tokenizer {file}: its ids have gaps, so {' '.join(missing)} cannot be written into a file of their own: load it with "
            "add_special_tokens=True instead"
        )
    return output
