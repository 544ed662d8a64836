"""Drafts a configuration from rows: reads them, holds out a part, tokenizes, sets the budgets of phases, writes the rows of both parts."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.failures import failure_line
from data_pipelines.schema import ROLES, TOKEN_PIXELS, DataError
from data_pipelines.sources import Source
from data_pipelines.survey import LeftOut, Row, Survey, choose_heldout, read_rows, texts, write_rows
from data_pipelines.text.special_tokens import write_with_special_tokens
from data_pipelines.text.tokenizers import load_tokenizer, train_sentencepiece
from neo_jax.config import Evaluation, Model, Optimizer, Run, Tokenizer
from neo_jax.config.fields import field_types
from neo_jax.config.phase import Phase
from neo_jax.drafting import file
from neo_jax.drafting.bases import BASES, Base
from neo_jax.drafting.phases import Drafted, Stage, draft_phase

MAX_HELDOUT = 1000  # rows of a file
MIN_ROWS = 20  # with fewer rows, the share of unusable ones is not checked
PIECES = 1000  # smallest vocabulary of a tokenizer that is trained here
BYTE_PIECES = 257  # one for each byte, one for unknown
TRAINED_TEXT = 20_000_000  # largest number of characters that the tokenizer is trained on
ROLE_LINES = 3000  # repetitions of the roles' names in its training text: they are in every turn, but in no text
VOCABULARY_MULTIPLE = 64
MAX_ANSWER_TOKENS = 256
SECTIONS = {
    "model": Model,
    "tokenizer": Tokenizer,
    "optimizer": Optimizer,
    "run": Run,
    "evaluation": Evaluation,
}  # sections that the file sets
EPOCHS = {"text": 2, "pretrain": 1, "mid": 2, "sft": 3}


@dataclasses.dataclass(frozen=True)
class Request:
    """The input of a draft: files with source names and opened sources, and the flags of neo_jax.init."""

    files: Sequence[str]
    names: Sequence[str]
    sources: Sequence[Source]
    media_root: str
    tokenizer: str
    base: str
    heldout: float
    max_failure_rate: float
    output: pathlib.Path


def draft(request: Request, folder: pathlib.Path, final: pathlib.Path, command: str) -> tuple[str, list[str]]:
    """Writes training rows, held-out rows, a log of left-out rows and the tokenizer to a folder.

    Args:
      folder: an empty folder.
      final: path to which the caller renames the folder afterwards.
      command: the command line, for the file's docstring.

    Returns:
      The text of the configuration, and lines that describe the data.

    Raises:
      DataError: too many rows cannot be used, no rows can be held out, or the tokenizer cannot be read or trained.
    """
    base = BASES[request.base]
    rows, left_out = read_rows(request.sources)
    _check_left_out(rows, left_out, request.max_failure_rate)
    tokenizer_file = _tokenizer(request.tokenizer, rows, folder)
    tokenizer = load_tokenizer(tokenizer_file, add_special_tokens=False)
    survey, unlearnable = Survey.of(rows, request.names, tokenizer)
    left_out += unlearnable
    _check_left_out(survey.rows, left_out, request.max_failure_rate)
    heldout = choose_heldout(survey.rows, len(request.sources), request.heldout, MAX_HELDOUT)
    if left_out:
        (folder / "left_out.jsonl").write_text("".join(failure_line(*each) for each in left_out), encoding="utf-8")
    sources = _write_parts(request, survey, heldout, folder, final)
    train = ~heldout
    stages = _stages(base, survey, train)
    phases = [
        draft_phase(stage, request.names, survey.source[train], lambda phase: survey.lengths(phase)[train], base.limits) for stage in stages
    ]
    named_tokenizer = final / tokenizer_file.name if tokenizer_file.parent == folder else tokenizer_file
    configuration = str(request.output)
    train_commands = (f"python -m neo_jax.train --config={shlex.quote(configuration + ':smoke')}", _train_command(configuration))
    sections, comments = _sections(base, survey, heldout, named_tokenizer, request)
    shared, phases = _shared(phases, stages)
    text = file.Draft(
        title=_title(request.files, len(survey.rows)),
        command=command,
        check=_check_command(request, named_tokenizer),
        train=train_commands,
        name=request.output.stem,
        media_root=request.media_root,
        sources=[source for source in sources if source.train],
        sections=sections,
        comments=comments,
        phases=phases,
        shared=shared,
        smoke_model=base.pretrained,
    ).text()
    return text, _report(request, survey, left_out, heldout, phases, final, named_tokenizer)


def _check_left_out(rows: Sequence[Row], left_out: Sequence[LeftOut], rate: float) -> None:
    total = len(rows) + len(left_out)
    if rows and (total < MIN_ROWS or len(left_out) <= rate * total):
        return
    examples = "; ".join(dict((each.reason, each.message) for each in reversed(left_out)).values())
    raise DataError(
        f"{len(left_out)} of {total} rows cannot be used ({_by_reason(left_out)}), more than {rate:.0%}: repair them, or leave them out with "
        f"a higher --max-failure-rate. For example: {examples}"
    )


def _by_reason(left_out: Sequence[LeftOut]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in collections.Counter(each.reason for each in left_out).most_common())


def _tokenizer(given: str, rows: Sequence[Row], folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of a tokenizer with all special tokens: the given one, a copy with the missing ones, or a newly trained one."""
    if given:
        return write_with_special_tokens(given, folder)
    trained = folder / "trained.model"
    characters = 0

    def within(line: str) -> bool:
        nonlocal characters
        characters += len(line)
        return characters <= TRAINED_TEXT

    lines = list(itertools.takewhile(within, texts(rows)))
    roles = [role for role in ROLES for _ in range(min(ROLE_LINES, len(lines)))]
    pieces = max(PIECES, 2 * BYTE_PIECES + len(set().union(*lines)))
    train_sentencepiece([*lines, *roles], trained, pieces)
    file = write_with_special_tokens(trained, folder)
    trained.unlink()
    return file


def _write_parts(
    request: Request, survey: Survey, heldout: npt.NDArray[np.bool_], folder: pathlib.Path, final: pathlib.Path
) -> list[file.Source]:
    sources = []
    for place, (name, path) in enumerate(zip(request.names, request.files, strict=True)):
        numbers: dict[str, set[int]] = {"train": set(), "heldout": set()}
        for row, out in zip(survey.rows, heldout, strict=True):
            if row.source == place:
                numbers["heldout" if out else "train"].add(row.number)
        parts = {part: f"{part}_{name}.jsonl" for part in numbers if numbers[part]}
        write_rows(pathlib.Path(path), [(folder / parts[part], numbers[part]) for part in parts])
        train, held = (str(final / parts[part]) if part in parts else "" for part in ("train", "heldout"))
        sources.append(file.Source(name, train, held, len(numbers["train"]), len(numbers["heldout"])))
    return sources


def _stages(base: Base, survey: Survey, train: npt.NDArray[np.bool_]) -> list[Stage]:
    """Returns the phases of the curriculum that suit these rows."""
    all_sources = sorted(set(survey.source[train].tolist()))
    with_media = sorted(set(survey.source[train & survey.has_media].tolist()))
    text_only = [place for place in all_sources if place not in with_media]
    clips = [clip for row in survey.rows for clip in row.clips]
    sizes = [*survey.sizes.prod(axis=1).tolist(), *(clip.height * clip.width for clip in clips)]

    def stage(name: str, sources: Sequence[int], share: int, percentile: float, reason: str) -> Stage:
        template = base.template(name)
        if not clips:
            template["frames"] = 0
        least = max(template["min_pixels"], TOKEN_PIXELS)
        wanted = int(np.percentile(sizes, 95)) // share if sizes else 0
        pixels = min(max(-(-wanted // TOKEN_PIXELS) * TOKEN_PIXELS, least), base.limits.pixels // share) if sizes else 0
        return Stage(name, template, sources, pixels, percentile, EPOCHS[name], reason)

    stages = []
    if text_only and "text" in base.phases:
        stages.append(stage("text", text_only, 1, 99, "the language model, on text only"))
    if with_media and (base.pretrained or stages):
        stages.append(stage("pretrain", with_media, 4, 90, "trains the new parameters on images; the language model is frozen"))
    if with_media:
        stages.append(stage("mid", all_sources, 2, 90, "all data, with smaller pictures and shorter documents"))
    return [*stages, stage("sft", all_sources, 1, 99, "all data, at full size and length")]


def _sections(
    base: Base, survey: Survey, heldout: npt.NDArray[np.bool_], tokenizer: pathlib.Path, request: Request
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    sections: dict[str, dict[str, Any]] = {name: dict(base.sections[name]) for name in SECTIONS}
    vocabulary = -(-survey.tokenizer.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    sections["model"]["vocabulary"] = max(vocabulary, sections["model"]["vocabulary"]) if base.pretrained else vocabulary
    sections["tokenizer"] = {"path": str(tokenizer), "add_special_tokens": False}
    sections["run"]["initial"] = str(tokenizer_folder) if base.pretrained and (tokenizer_folder := _checkpoint(request.tokenizer)) else ""
    answers = int(np.percentile(survey.answers, 99, method="higher"))
    sections["evaluation"] |= {
        "questions": min(sections["evaluation"]["questions"], int(heldout.sum())),
        "interim_questions": min(50, int(heldout.sum())),
        "answer_tokens": min(-(-answers // 8) * 8, MAX_ANSWER_TOKENS),
    }
    if not base.pretrained:
        sections["run"] |= {"checkpoint_every": 100, "heldout_every": 100}
    comments = {
        "model.vocabulary": f"the tokenizer has {survey.tokenizer.vocabulary:,} ids",
        "tokenizer.path": "with NEO's special tokens",
        "run.initial": "a Qwen3 checkpoint's folder; empty: random parameters",
        "evaluation.answer_tokens": f"99% of the answers have at most {answers:,} tokens, the longest {survey.answers.max():,}",
    }
    ordered = {name: {key: sections[name][key] for key in field_types(kind) if key in sections[name]} for name, kind in SECTIONS.items()}
    return ordered, comments


def _checkpoint(tokenizer: str) -> pathlib.Path | None:
    """Returns the folder of a tokenizer if it is a checkpoint folder, else None."""
    folder = pathlib.Path(tokenizer) if pathlib.Path(tokenizer).is_dir() else pathlib.Path(tokenizer).parent
    return folder if (folder / "config.json").is_file() else None


def _shared(phases: Sequence[Drafted], stages: Sequence[Stage]) -> tuple[dict[str, Any], list[Drafted]]:
    """Returns the values that all phases share, and the phases with their other values. Defaults are left out."""
    defaults = {name: field.default for name, field in Phase.__dataclass_fields__.items()}
    taken = {"architecture", "trains", "learning_rate", "minimum_ratio", "warmup_ratio", "loss_weighting", "carry_optimizer", "remat"}
    taken |= {"compute_dtype", "mesh"}
    given = [
        phase.values | {key: value for key, value in stage.template.items() if key in taken}
        for phase, stage in zip(phases, stages, strict=True)
    ]
    shared = {key: value for key, value in given[0].items() if key in taken and all(each[key] == value for each in given)}
    own = [
        {key: value for key, value in values.items() if key not in shared and (key not in taken or value != defaults[key])}
        for values in given
    ]
    shared = {key: value for key, value in shared.items() if _is_set(value, defaults[key])}
    return shared, [dataclasses.replace(phase, values=values) for phase, values in zip(phases, own, strict=True)]


def _is_set(value: Any, default: Any) -> bool:
    return value != (dataclasses.asdict(default) if isinstance(value, Mapping) else default)


def _title(files: Sequence[str], rows: int) -> str:
    named = ", ".join(pathlib.Path(each).name for each in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return f"Trains on {named}: {rows:,} rows."


def _train_command(configuration: str) -> str:
    return f"python -m neo_jax.train --config={shlex.quote(configuration)}"


def _check_command(request: Request, tokenizer: pathlib.Path) -> str:
    root = [f"--media-root={request.media_root}"] if request.media_root else []
    arguments = [*request.files, *root, f"--tokenizer={tokenizer}", f"--config={request.output}"]
    return f"python -m data_pipelines.check {shlex.join(arguments)}"


def _report(
    request: Request,
    survey: Survey,
    left_out: Sequence[LeftOut],
    heldout: npt.NDArray[np.bool_],
    phases: Sequence[Drafted],
    folder: pathlib.Path,
    tokenizer: pathlib.Path,
) -> list[str]:
    """Returns lines that describe the data, the phases and the next commands."""
    lines = []
    for place, (name, path) in enumerate(zip(request.names, request.files, strict=True)):
        usable, bad = int((survey.source == place).sum()), [each for each in left_out if each.source == name]
        held = int(heldout[survey.source == place].sum())
        lines.append(f"{path}: {usable + len(bad):,} rows, {usable:,} usable, of which {held:,} are held out")
        if bad:
            lines.append(f"  left out: {_by_reason(bad)}; named in {folder / 'left_out.jsonl'}; for example {bad[0].message}")
        if usable and not held:
            lines.append("  no row of it could be held out: its rows share their files with rows that are trained on, or are too few")
        if usable and held == usable:
            lines.append("  all of it is held out: it is no training source")
    lines.append(f"text: {_spread(survey.text)} tokens a row; answers: {_spread(survey.answers)} tokens")
    if len(survey.sizes):
        lines.append(f"pictures: {len(survey.sizes):,} in {int((survey.pictures > 0).sum()):,} rows; width {_spread(survey.sizes[:, 1])}, "
                     f"height {_spread(survey.sizes[:, 0])} pixels")  # fmt: skip
    clips = [clip for row in survey.rows for clip in row.clips]
    if clips:
        lines.append(f"clips: {len(clips):,}; {_spread(np.array([round(clip.duration) for clip in clips]))} seconds")
    lines.append(f"tokenizer: {tokenizer}, {survey.tokenizer.vocabulary:,} ids")
    for phase in phases:
        values = phase.values
        lines.append(
            f"phase {phase.name}: context {values['context']:,}, {values['rows_per_step']} rows a step, {values['steps']:,} steps; "
            f"{phase.too_long:.1%} of the documents do not fit"
        )
        lines += [f"  no row of {request.names[place]} fits: it is not in the mixture" for place in phase.left_out]
    commands = (_check_command(request, tokenizer), _train_command(str(request.output)))
    return [*lines, f"written: {request.output} and the folder {folder}", "next:", *(f"  {command}" for command in commands)]


def _spread(values: npt.NDArray[Any]) -> str:
    return f"{int(np.median(values)):,} (median), {int(np.percentile(values, 99, method='higher')):,} (99%), {int(values.max()):,} (most)"
