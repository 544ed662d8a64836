"""Rows of a benchmark: a tab-separated file as the official evaluation kit's, read as that kit reads it."""

from __future__ import annotations

import ast
import csv
import dataclasses
import json
import pathlib
import re
import string
from collections.abc import Callable, Mapping, Sequence

from data_pipelines.schema import DataError

Value = str | int | float | bool | None

# What the kit's reader (pandas) takes for an empty cell. An option with such a text disappears from prompts and from scoring.
EMPTY_WORDS = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"}
    | {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
TRUTHS = ("True", "False", "TRUE", "FALSE", "true", "false")
_WHOLE = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
MOST_CELL_BYTES = 1 << 30  # pictures lie in cells


@dataclasses.dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
      place: file and number of the row, for messages.
      values: by column; None: the cell is empty.
    """

    place: str
    values: Mapping[str, Value]

    def has(self, name: str) -> bool:
        """Returns whether the row has the column, and the cell is not empty."""
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """Returns a cell's text. Raises DataError if the column is missing or the cell is empty."""
        if name not in self.values:
            raise DataError(f"{self.place}: has no column {name!r}; its columns are {', '.join(self.values)}")
        if (value := self.values[name]) is None:
            raise DataError(f"{self.place}: the cell {name!r} is empty (so are the words NA, None, null and the like to this preset)")
        return str(value)

    def number(self, name: str) -> float:
        """Returns a cell's number. Raises DataError if it is none."""
        try:
            return float(self.text(name))
        except ValueError as error:
            raise DataError(f"{self.place}: {name!r} is {self.values[name]!r:.80}, must be a number") from error

    def list(self, name: str) -> list[str]:
        """Returns the texts of a cell that holds a list as Python or JSON writes it. Raises DataError if it holds none."""
        return list_of(self.text(name), f"{self.place}: {name!r}")

    def options(self) -> dict[str, str]:
        """Returns the texts of the columns A, B, C, ... that are not empty, by letter."""
        return {letter: self.text(letter) for letter in string.ascii_uppercase if self.has(letter)}

    @property
    def key(self) -> str:
        """Name of the row: its `index`."""
        return self.text("index")


def list_of(text: str, place: str) -> list[str]:
    """Returns the texts of a list as Python or JSON writes it. Raises DataError if it is none."""
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple):
            return [str(each) for each in found]
    raise DataError(f"{place} is {text!r:.80}, must be a list such as ['a', 'b']")


def is_list(text: str) -> bool:
    """Returns whether a cell is written as a list."""
    return text.startswith("[") and text.endswith("]")


def read_rows(path: pathlib.Path, quirks: bool) -> list[Row]:
    """Reads the rows of a tab-separated file with a header.

    Args:
      quirks: reads cells as the official kit does: words such as None and NA are empty, and a column of numbers holds numbers ("007" is 7,
        and "1" is 1.0 if a cell of its column is empty). Without it only a cell without text is empty, and every cell is text.

    Raises:
      DataError: the file cannot be read, has no rows, a row has another number of cells, or two rows have the same index.
    """
    csv.field_size_limit(MOST_CELL_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = [cells for cells in csv.reader(file, delimiter="\t") if cells]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is no tab-separated table ({error})") from error
    if len(table) < 2:
        raise DataError(f"{path} has {'a header and no rows' if table else 'no header'}: it must be a tab-separated table")
    header, *lines = table
    for number, cells in enumerate(lines, 1):
        if len(cells) != len(header):
            raise DataError(f"{path}, row {number}: has {len(cells)} cells, the header {len(header)}: its quotes or tabs are broken")
    read = typed if quirks else lambda cells: [cell or None for cell in cells]
    columns = [read([cells[place] for cells in lines]) for place in range(len(header))]
    rows = [
        Row(f"{path}, row {number}", dict(zip(header, values, strict=True))) for number, values in enumerate(zip(*columns, strict=True), 1)
    ]
    _check_keys(rows)
    return rows


def typed(cells: Sequence[str]) -> list[Value]:
    """Returns the cells of a column as the official kit reads them: empty ones are None, numbers and truth values if all others are."""
    filled = [cell for cell in cells if cell not in EMPTY_WORDS]
    empty = len(filled) < len(cells)
    read: Callable[[str], Value] = str
    if filled and all(_WHOLE.fullmatch(cell.strip()) for cell in filled):
        read = float if empty else int
    elif filled and all(_NUMBER.fullmatch(cell.strip()) for cell in filled):
        read = float
    elif filled and all(cell in TRUTHS for cell in filled):
        read = lambda cell: cell.lower() == "true"  # noqa: E731
    return [None if cell in EMPTY_WORDS else read(cell) for cell in cells]


def _check_keys(rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if (other := seen.setdefault(row.key, row)) is not row:
            raise DataError(f"{row.place}: has the index {row.key!r} of {other.place}: give each row its own")
