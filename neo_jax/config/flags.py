"""Command-line flags of all commands: reads them into a dataclass, reports all problems together, and writes --help from the same dataclass.

--NAME=VALUE and --NAME VALUE are the same, and so are --NAME=A,B and --NAME=A --NAME=B. Commands that train or plan take --config=FILE[:ARG] and
--config.KEY=VALUE besides their own flags.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from neo_jax import exit_codes
from neo_jax.config.documentation import field_descriptions
from neo_jax.config.fields import INVALID, ConfigError, field_types, nearest, parse_text, read_value, required_fields

WIDTH = 110
CONFIGURATION_FLAGS = {
    "--config=FILE[:ARG]": "the configuration: a Python file with get_config(arg), or the config.json of a run. Required.",
    "--config.KEY=VALUE": "sets one key, such as --config.run.seed=3. A * stands for all names: --config.phases.*.mesh.fsdp=16. "
    "A new name adds a source or phase; --config.phases.NEW=OLD copies one. docs/configuration.md lists the keys.",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """The description of a command, for --help and messages.

    Attributes:
      name: name of the module, as in `python -m NAME`.
      purpose: what the command does, in a sentence or two.
      example: arguments of a typical call.
      codes: exit codes; a mapping gives their meanings, a tuple takes them from exit_codes.MEANINGS.
      operands: arguments that are not flags, such as "FILE..."; "" for a command that takes a configuration instead; None: neither.
    """

    name: str
    purpose: str
    example: str
    codes: tuple[int, ...] | Mapping[int, str]
    operands: str | None = ""

    def help(self, flags: type) -> str:
        """Returns the text of --help. `flags` is the dataclass of the command's flags."""
        descriptions = field_descriptions(flags)
        lines = dict(CONFIGURATION_FLAGS) if self.operands == "" else {}
        for field in dataclasses.fields(flags):
            lines[_written(field.name, field_types(flags)[field.name])] = descriptions[field.name] + _default(field)
        meanings = self.codes if isinstance(self.codes, Mapping) else {code: exit_codes.MEANINGS[code] for code in self.codes}
        lines["--help"] = "prints this text and exits."
        parts = [
            f"usage: python -m {self.name} {'--config=FILE[:ARG] ' if self.operands == '' else f'{self.operands} ' if self.operands else ''}[flags]",
            textwrap.fill(self.purpose, WIDTH),
            "flags:\n" + _table(lines),
            "exit codes:\n" + _table({str(code): meaning for code, meaning in meanings.items()}),
            f"example:\n  python -m {self.name} {self.example}",
        ]
        return "\n\n".join(parts)


@dataclasses.dataclass(frozen=True)
class Alone:
    """Rule for a flag that may be given without a value, and the value that it then has."""

    value: Any


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """The flags of a command that has none of its own."""


class Argument(NamedTuple):
    """One argument of a command line.

    Attributes:
      name: name of the flag; "" for an operand.
      text: its value; None for a flag without a value and for an operand.
      written: the argument as it was written.
    """

    name: str
    text: str | None
    written: str


def read_flags[T](kind: type[T], arguments: Sequence[str], command: Command) -> tuple[T, list[str]]:
    """Reads the flags of a command. With --help among them, prints the help and exits with code 0.

    Args:
      kind: a frozen dataclass; each field is a flag (`cpu_devices` is --cpu-devices). Field types are those of neo_jax.config.fields, or such a
        type | None. The method `problems()`, if defined, yields (field, sentence).
      arguments: without the program's name.
      command: the command, for help and messages.

    Returns:
      The flags, and the other arguments: the operands of the command, or --config=... and --config.KEY=... .

    Raises:
      ConfigError: all problems of the command line.
    """
    types_ = {name.replace("_", "-"): hint for name, hint in field_types(typing.cast(type, kind)).items()}
    known = [*types_, "help", *(["config"] if command.operands == "" else [])]
    values: dict[str, Any] = {}
    problems: list[str] = []
    rest: list[str] = []
    for name, text, written in split(arguments, {name for name, hint in types_.items() if hint is bool} | {"help", "h"}):
        if name in ("help", "h"):
            print(command.help(kind))
            raise SystemExit(exit_codes.DONE)
        if command.operands == "" and _is_config(name) and text is not None:
            rest.append(f"--{name}={text}")
        elif command.operands and not name:
            rest.append(written)
        elif name not in types_ or (text is None and _alone(types_[name]) is None):
            alike = nearest(f"--{name}", [f"--{each}" for each in known if each != name]) if name and name not in known else ""
            problems.append(f"{written}: not understood{alike}: write {command.example}; --help shows all flags")
        else:
            field, value = name.replace("-", "_"), _value(types_[name], text, f"--{name}", problems)
            # Lists may be given in several flags.
            values[field] = (*values[field], *value) if isinstance(value, tuple) and isinstance(values.get(field), tuple) else value
    absent = [name.replace("_", "-") for name in required_fields(kind) if name not in values]
    missing = [f"--{name} is missing: write for example {command.example}" for name in absent]
    if problems or missing:
        raise ConfigError(problems or missing)
    flags = kind(**values)
    if hasattr(flags, "problems"):
        problems.extend(f"--{name.replace('_', '-')}: {sentence}" for name, sentence in flags.problems())
    if problems:
        raise ConfigError(problems)
    return flags, rest


def config_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments --config=... and --config.KEY=... of a command line, without all others."""
    return [f"--{name}={text}" for name, text, _ in split(arguments, set()) if _is_config(name) and text is not None]


def split(arguments: Sequence[str], alone: set[str]) -> Iterator[Argument]:
    """Parses a command line. The next argument is the value of a flag without "=", unless it is a flag itself or the flag is in `alone`."""
    waiting = list(arguments)
    while waiting:
        written = waiting.pop(0)
        if not _is_flag(written):
            yield Argument("", None, written)
            continue
        name, equals, text = written.removeprefix("-").removeprefix("-").partition("=")
        if equals or name in alone or not waiting or _is_flag(waiting[0]):
            yield Argument(name, text if equals else None, written)
        else:
            value = waiting.pop(0)
            yield Argument(name, value, f"{written} {value}")


def _is_flag(argument: str) -> bool:
    return re.match("--?[A-Za-z]", argument) is not None


def _is_config(name: str) -> bool:
    return name == "config" or name.startswith("config.")


def _value(hint: Any, text: str | None, path: str, problems: list[str]) -> Any:
    if text is None:
        alone = _alone(hint)
        assert alone is not None
        return alone.value
    if not text:
        problems.append(f"{path}: is empty: give it a value, or leave it out")
        return INVALID
    return read_value(_not_none(hint), parse_text(_not_none(hint), text), path, problems)


def _alone(hint: Any) -> Alone | None:
    if hint is bool:
        return Alone(True)
    return next((rule for rule in typing.get_args(hint)[1:] if isinstance(rule, Alone)), None)


def _not_none(hint: Any) -> Any:
    """Returns the type T of T | None; other types unchanged."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    return hint


def _written(name: str, hint: Any) -> str:
    """Returns a flag as --help shows it, such as --cpu-devices=N."""
    kind: Any = _not_none(hint)
    rules: list[Any] = []
    if typing.get_origin(kind) is typing.Annotated:
        kind, *rules = typing.get_args(kind)
    if kind is bool:
        value = ""
    elif pathlib.Path in rules:
        value = "=FILE"
    else:
        value = "=A,B" if typing.get_origin(kind) is tuple else {int: "=N", float: "=X", str: "=TEXT"}[kind]
    return f"--{name.replace('_', '-')}" + (f"[{value}]" if value and _alone(hint) else value)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return " Required."
    return "" if field.default in (None, "", (), False, 0) else f" Without it: {field.default}."


def _table(lines: dict[str, str]) -> str:
    width = max(map(len, lines)) + 4
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=f"  {key}".ljust(width), subsequent_indent=" " * width) for key, text in lines.items()
    )
