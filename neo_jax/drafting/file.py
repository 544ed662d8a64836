"""Writes the text of a drafted configuration file: short, commented, formatted like the files in configs/."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from neo_jax.drafting.bases import SMOKE_MODEL
from neo_jax.drafting.phases import Drafted

LINE = 140
PHASE_KEYS = (
    *("architecture", "trains", "context", "visual_tokens", "images", "segments", "min_pixels", "max_pixels"),
    *("frames", "frames_per_second", "frame_pixels", "mixture", "steps", "rows_per_step", "learning_rate", "minimum_ratio", "warmup_ratio"),
    *("loss_weighting", "carry_optimizer", "remat", "compute_dtype", "mesh"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of a drafted configuration: paths and numbers of its training and held-out rows; a path is "" if there are none."""

    name: str
    train: str
    heldout: str
    train_rows: int
    heldout_rows: int


@dataclasses.dataclass(frozen=True)
class Draft:
    """The content of the file.

    Attributes:
      title: description of the data.
      command: command line that wrote the file.
      check: the command that checks the data against it.
      train: the commands that train it, for a few steps and completely.
      name: name of the run.
      media_root: media_root of all sources.
      sections: values by key of the sections model, tokenizer, optimizer, run and evaluation.
      comments: comments by dotted key, such as "model.vocabulary".
      phases: in the order in which they are trained.
      shared: values that all phases share.
      smoke_model: whether the argument "smoke" replaces the model with a small one.
    """

    title: str
    command: str
    check: str
    train: tuple[str, str]
    name: str
    media_root: str
    sources: Sequence[Source]
    sections: Mapping[str, Mapping[str, Any]]
    comments: Mapping[str, str]
    phases: Sequence[Drafted]
    shared: Mapping[str, Any]
    smoke_model: bool

    def text(self) -> str:
        """Returns the text of the Python file."""
        lines = [
            f'"""{_in_docstring(self.title)} Written by neo_jax.init: change what you like.',
            "",
            *(f"    {_in_docstring(line)}" for line in (self.command, self.check, *self.train)),
            "",
            "docs/configuration.md says what each key means, docs/own_data.md how to go on.",
            '"""',
            "",
            "from __future__ import annotations",
            "",
            "from typing import Any",
            "",
            "from ml_collections import ConfigDict",
            "",
            f"ROOT = {_literal(f'runs/{self.name}')}",
            f"MEDIA_ROOT = {_literal(self.media_root)}",
            "",
            "",
            "def get_config(arg: str | None = None) -> ConfigDict:",
            '    """The configuration. arg "smoke": a few steps of each phase and few questions."""',
            '    if arg not in (None, "smoke"):',
            "        raise ValueError(f'this configuration takes the argument \"smoke\" or none, not {arg!r}')",
            "    config = ConfigDict()",
            *self._section("model"),
            *self._section("tokenizer"),
            *self._section("optimizer"),
            *self._data(),
            *self._section("run", {"directory": 'f"{ROOT}/run"'}),
            *self._section("evaluation"),
            "    config.phases = {",
            *(line for phase in self.phases for line in self._phase(phase)),
            "    }",
            f"    config.curriculum = {_tuple([phase.name for phase in self.phases])}",
            *self._smoke(),
            "    return config",
            "",
            "",
            "def _source(path: str) -> dict[str, Any]:",
            '    return {"format": "jsonl", "path": path, "media_root": MEDIA_ROOT}',
            "",
            "",
            "def _phase(**values: Any) -> dict[str, Any]:",
            '    """A phase: what all phases share, and its own values."""',
            "    shared = {",
            *(f'        "{key}": {_literal(self.shared[key])},' for key in PHASE_KEYS if key in self.shared),
            "    }",
            "    return shared | values",
            "",
        ]
        return "\n".join(lines)

    def _section(self, name: str, expressions: Mapping[str, str] | None = None) -> list[str]:
        values = {key: _literal(value) for key, value in self.sections[name].items()} | dict(expressions or {})
        lines = [_commented(f'        "{key}": {text},', self.comments.get(f"{name}.{key}")) for key, text in values.items()]
        return [f"    config.{name} = {{", *lines, "    }"]

    def _data(self) -> list[str]:
        train = [
            _commented(f'            "{each.name}": _source({_literal(each.train)}),', f"{each.train_rows:,} rows") for each in self.sources
        ]
        heldout = [
            _commented(f'            "{each.name}": _source({_literal(each.heldout)}),', f"{each.heldout_rows:,} rows, never trained on")
            for each in self.sources
            if each.heldout
        ]
        return [
            "    config.data = {",
            '        "sources": {',
            *train,
            "        },",
            '        "heldout": {',
            *heldout,
            "        },",
            '        "index_folder": f"{ROOT}/index",',
            "    }",
        ]

    def _phase(self, phase: Drafted) -> list[str]:
        lines = []
        for key in PHASE_KEYS:
            if key in phase.values:
                lines += _keyword(key, phase.values[key], phase.comments.get(key))
        return [_commented(f'        "{phase.name}": _phase(', phase.reason), *lines, "        ),"]

    def _smoke(self) -> list[str]:
        lines = ['    if arg == "smoke":']
        if self.smoke_model:
            lines += [
                f"        config.model.update({_literal(SMOKE_MODEL)})",
                '        config.run.initial = ""',
                "        for phase in config.phases.values():",
                '            phase.update({"rows_per_step": 2, "remat": "none", "compute_dtype": "float32"})',
                '            phase.mesh = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1}',
            ]
        return [
            *lines,
            "        for phase in config.phases.values():",
            "            phase.steps = 3",
            '        config.run.update({"directory": f"{ROOT}/smoke", "log_every": 1, "checkpoint_every": 2, "heldout_every": 2, "heldout_rows": 1})',
            '        config.evaluation.update({"questions": 2, "interim_questions": 2, "answer_tokens": 4, "tokens": 2048})',
        ]


def _keyword(key: str, value: Any, comment: str | None) -> list[str]:
    """Returns the lines of one argument of _phase; several if it does not fit one line."""
    line = f"            {key}={_literal(value)},"
    if len(line) <= LINE or not isinstance(value, Mapping):
        return _commented(line, comment).splitlines()
    inner = [f"                {_literal(name)}: {_literal(entry)}," for name, entry in value.items()]
    return [_commented(f"            {key}={{", comment), *inner, "            },"]


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"') if '"' in text or "\\" in text else text


def _commented(line: str, comment: str | None) -> str:
    """Returns a line with its comment after it, or on a line of its own before it if both do not fit one line."""
    if not comment:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return f"{line}  # {comment}" if len(line) + len(comment) + 4 <= LINE else f"{indent}# {comment}\n{line}"


def _literal(value: Any) -> str:
    """Returns the Python source of a value, as the formatter writes it."""
    if isinstance(value, str):
        return repr(value) if '"' in value and "'" not in value else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_literal, value)) + ")"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)


def _tuple(names: Sequence[str]) -> str:
    return "(" + ", ".join(map(_literal, names)) + ("," if len(names) == 1 else "") + ")"
