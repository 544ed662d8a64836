"""Writes samples as rows of shards, which `sources` reads back as the same samples."""

from __future__ import annotations

import io
import json
import pathlib
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow
from pyarrow import parquet

from data_pipelines.schema import DOCUMENT, Sample
from data_pipelines.text.marks import IMAGE_MARK, MARKS, words

_GROUP_ROWS, _GROUP_BYTES = 100, 32 << 20  # limits of a Parquet row group: a random read of a row reads its whole group
_ENDING = re.compile(r"\.([A-Za-z0-9]{1,5})$")
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"\x1aE\xdf\xa3", "mkv"),
)


class ShardWriter(Protocol):
    """Writes the samples of one shard."""

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        """Adds a sample, given its number among all samples and the encoded bytes of its files; returns its size in bytes."""
        ...

    def close(self) -> None: ...


class TarWriter:
    """Writes a WebDataset archive: for each sample NUMBER.json, and NUMBER.PLACE.ENDING for each of its files."""

    def __init__(self, path: pathlib.Path):
        self._archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed with the writer)

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        names = file_names(sample, media, number)
        row = json.dumps(row_of(sample, names), ensure_ascii=False).encode()
        return sum(map(self._add, [f"{number:09d}.json", *names], [row, *media]))

    def _add(self, name: str, content: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._archive.addfile(info, io.BytesIO(content))
        return 1024 + len(content)

    def close(self) -> None:
        self._archive.close()


class LinesWriter:
    """Writes JSON lines, and their media to the folder `media` beside them, with a subfolder for each thousand samples."""

    def __init__(self, path: pathlib.Path):
        self._media = path.parent / "media"
        self._file = path.open("w", encoding="utf-8")

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        names = [f"{number // 1000:06d}/{name}" for name in file_names(sample, media, number)]
        for name, content in zip(names, media, strict=True):
            (self._media / name).parent.mkdir(parents=True, exist_ok=True)
            (self._media / name).write_bytes(content)
        return self._file.write(json.dumps(row_of(sample, names), ensure_ascii=False) + "\n") + sum(map(len, media))

    def close(self) -> None:
        self._file.close()


_MEDIA = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
_PART = pyarrow.struct(
    {
        "type": pyarrow.string(),
        "text": pyarrow.string(),
        "image": _MEDIA,
        "video": pyarrow.list_(_MEDIA),
        "timestamps": pyarrow.list_(pyarrow.float64()),
    }
)
_TURN = pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.list_(_PART), "is_input": pyarrow.bool_()})
_SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.string(),
        "family": pyarrow.string(),
        "messages": pyarrow.list_(_TURN),
        "text": pyarrow.string(),
        "images": pyarrow.list_(_MEDIA),
        "texts": pyarrow.list_(pyarrow.string()),
    }
)


class ParquetWriter:
    """Writes a Parquet file with the media in its rows, as {bytes, path}."""

    def __init__(self, path: pathlib.Path):
        self._writer = parquet.ParquetWriter(path, _SCHEMA, compression="none", write_page_checksum=True)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, number: int, sample: Sample, media: Sequence[bytes]) -> int:
        names = file_names(sample, media, number)
        row = row_of(sample, [{"bytes": content, "path": name} for name, content in zip(names, media, strict=True)])
        for turn in row.get("messages", ()):
            if isinstance(turn["content"], str):
                turn["content"] = [{"type": "text", "text": turn["content"]}]
        size = sum(map(len, media)) + sum(len(turn.text) for turn in sample.turns)
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()
        return size

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, _SCHEMA))
        self._rows, self._bytes = [], 0


WRITERS: Mapping[str, tuple[str, Callable[[pathlib.Path], ShardWriter]]] = {  # by format: extension of a shard's name, and its writer
    "jsonl": ("jsonl", LinesWriter),
    "tar": ("tar", TarWriter),
    "parquet": ("parquet", ParquetWriter),
}


def file_names(sample: Sample, media: Sequence[bytes], number: int) -> list[str]:
    """Returns a name for each file of a sample, NUMBER.PLACE.ENDING: the sample's number, the file's index in it, and an extension."""
    return [f"{number:09d}.{place}.{_ending(file.name, data)}" for place, (file, data) in enumerate(zip(sample.files, media, strict=True))]


def _ending(name: str, content: bytes) -> str:
    """Returns the extension of the name, else one recognised from the first bytes, else "bin"."""
    if found := _ENDING.search(name):
        return found[1].lower()
    return next((ending for signature, ending in _SIGNATURES if content.startswith(signature)), "mp4" if content[4:8] == b"ftyp" else "bin")


def row_of(sample: Sample, files: Sequence[Any]) -> dict[str, Any]:
    """Returns the row of a sample.

    Args:
      sample: sample to write.
      files: value that stands for each of sample.files in the row: a name, or {bytes, path}.
    """
    row: dict[str, Any] = {"id": sample.key} | ({"family": sample.family} if sample.family else {})
    if sample.turns[0].role == DOCUMENT:
        return row | _document(sample, files)
    images = iter(files[: len(sample.images)])
    clips = iter(_clips(sample, files[len(sample.images) :]))
    return row | {"messages": [_turn(turn.role, turn.text, turn.is_input, images, clips, bool(files)) for turn in sample.turns]}


def _clips(sample: Sample, files: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields the part of a turn's content for each clip."""
    at = 0
    for clip in sample.clips:
        named = list(files[at : at + len(clip.files)])
        at += len(clip.files)
        yield {"type": "video", "video": named} | ({"timestamps": list(clip.times)} if clip.times else {})


def _turn(role: str, text: str, is_input: bool, images: Iterator[Any], clips: Iterator[dict[str, Any]], has_files: bool) -> dict[str, Any]:
    """Returns a turn of the row.

    Text that looks like a mark and is not one is escaped in questions if the row has no files. In a row with files it needs no escape: the
    parts of the turns name the files, and marks in the text of such a row are read as words.
    """
    pieces = re.split(f"({'|'.join(MARKS)})", text)
    content: Any = [
        ({"type": "image", "image": next(images)} if piece == IMAGE_MARK else next(clips))
        if piece in MARKS
        else {"type": "text", "text": words(piece)}
        for piece in pieces
        if piece
    ]
    if len(pieces) == 1:
        content = words(text) if has_files or role == "assistant" else _escaped(text)
    return {"role": role, "content": content} | ({"is_input": True} if is_input else {})


def _escaped(text: str) -> str:
    return re.sub(r"<(image|video)>", r"\\<\1>", words(text))


def _document(sample: Sample, files: Sequence[Any]) -> dict[str, Any]:
    """Returns the row of a document: a plain text, or a page as a list of texts and a list of images."""
    text = sample.turns[0].text
    if not files:
        return {"text": words(text)}
    images: list[Any] = []
    texts: list[str | None] = []
    waiting = iter(files)
    for part in _page(text):
        images.append(next(waiting) if part == IMAGE_MARK else None)
        texts.append(None if part == IMAGE_MARK else words(part))
    return {"images": images, "texts": texts}


def _page(text: str) -> Iterator[str]:
    """Yields the image marks of a page, and between them the consecutive lines of text joined to one string."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line != IMAGE_MARK:
            lines.append(line)
            continue
        if lines:
            yield "\n".join(lines)
        lines = []
        yield line
    if lines:
        yield "\n".join(lines)
