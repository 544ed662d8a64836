"""Samples to rows and shards: what `sources` reads again as the same samples."""

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

_GROUP_ROWS, _GROUP_BYTES = 100, 32 << 20  # of a Parquet row group: a row read at random costs its group
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
        """Adds a sample, given its number among all and the bytes of its files; returns how many bytes it took."""
        ...

    def close(self) -> None: ...


class TarWriter:
    """A WebDataset archive: NUMBER.json beside NUMBER.PLACE.ENDING for each file."""

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
    """JSON lines whose files lie in the folder `media` beside them, a thousand samples a subfolder."""

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
    """A Parquet file with the media in its rows, as {bytes, path}."""

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


WRITERS: Mapping[str, tuple[str, Callable[[pathlib.Path], ShardWriter]]] = {  # by format: ending of a shard's name, and its writer
    "jsonl": ("jsonl", LinesWriter),
    "tar": ("tar", TarWriter),
    "parquet": ("parquet", ParquetWriter),
}


def file_names(sample: Sample, media: Sequence[bytes], number: int) -> list[str]:
    """A name for each file of a sample: NUMBER.PLACE.ENDING."""
    return [f"{number:09d}.{place}.{_ending(file.name, data)}" for place, (file, data) in enumerate(zip(sample.files, media, strict=True))]


def _ending(name: str, content: bytes) -> str:
    """That of the name, else what the first bytes say."""
    if found := _ENDING.search(name):
        return found[1].lower()
    return next((ending for signature, ending in _SIGNATURES if content.startswith(signature)), "mp4" if content[4:8] == b"ftyp" else "bin")


def row_of(sample: Sample, files: Sequence[Any]) -> dict[str, Any]:
    """The row of a sample.

    Args:
      files: how the row names each of sample.files.
    """
    row: dict[str, Any] = {"id": sample.key} | ({"family": sample.family} if sample.family else {})
    if sample.turns[0].role == DOCUMENT:
        return row | _document(sample, files)
    images = iter(files[: len(sample.images)])
    clips = iter(_clips(sample, files[len(sample.images) :]))
    return row | {"messages": [_turn(turn.role, turn.text, turn.is_input, images, clips, bool(files)) for turn in sample.turns]}


def _clips(sample: Sample, files: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a part for each clip."""
    at = 0
    for clip in sample.clips:
        named = list(files[at : at + len(clip.files)])
        at += len(clip.files)
        yield {"type": "video", "video": named} | ({"timestamps": list(clip.times)} if clip.times else {})


def _turn(role: str, text: str, is_input: bool, images: Iterator[Any], clips: Iterator[dict[str, Any]], has_files: bool) -> dict[str, Any]:
    """A turn. Where the parts of a row name files, words that look like marks are words; elsewhere they are escaped in questions."""
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
    """A plain text, or a page: texts and images by turns."""
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
    """Yields the marks of a page, and the lines between two of them together."""
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
