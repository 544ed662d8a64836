"""Whole runs in processes of their own: killed, stopped and started again, they end in the same numbers."""

import json
import pathlib
import shutil
import signal

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from neo_jax.runs.evaluations import read_evaluations
from neo_jax.runs.reading import read_record
from tests.neo_jax.training.running import TIMEOUT, answers, metrics, run, start, wait_for_step, write_config
from tests.neo_jax.training.tiny_run import STEPS

pytestmark = pytest.mark.xdist_group("trainer")  # one worker: the whole run is made once

TOTAL = sum(STEPS.values())


def test_a_run_leaves_what_its_user_needs(whole: pathlib.Path):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, TOTAL + 1))
    assert [line["phase"] for line in lines] == [name for name, steps in STEPS.items() for _ in range(steps)]
    assert all(np.isfinite(line["loss"]) and line["fill"] > 0.5 for line in lines)
    assert set(lines[-1]["heldout_loss"]) == {"text", "motion"}
    assert list((whole / "tensorboard").glob("events*"))
    report = json.loads((whole / "report.json").read_text())
    assert set(report) >= {"phases", "families", "exact_match", "blank_exact_match", "majority", "seconds"}
    assert set(report["exact_match"]) == {"overall", "text", "motion"}
    assert (whole / "report.html").stat().st_size > 10_000
    settings = json.loads((whole / "config.json").read_text())
    assert settings["run"]["directory"] == str(whole)
    with ocp.training.Checkpointer(whole / "checkpoints") as checkpoints:
        record = checkpoints.metadata(TOTAL).custom_metadata
    assert record["configuration"] == settings and set(record["data"]) >= {"tokenizer", "source large"}


@pytest.mark.nightly
def test_a_branch_ends_in_the_same_numbers(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    """From the edge behind the second phase of a finished run: losses, answers and state equal that run's bit for bit."""
    directory = tmp_path / "run"
    takes = {"run__initial": f"{whole}:pretrain", "run__initial_takes": "position"}
    code, output = run(write_config(corpus, directory, **takes))
    assert code == 0, output
    edge = STEPS["text"] + STEPS["pretrain"]
    assert f"resumed after step {edge}, in phase pretrain" in output
    assert metrics(directory) == metrics(whole)[edge:]
    assert answers(directory) == answers(whole)[-len(answers(directory)) :]
    ours, theirs = (read_record(each / "checkpoints" / str(TOTAL))[1] for each in (directory, whole))
    assert ours["checksums"] == theirs["checksums"]
    assert json.loads((directory / "initial" / "origin.json").read_text())["step"] == edge
    code, output = run(write_config(corpus, directory, **takes, phases__pretrain__learning_rate=1.0))
    assert code == 78 and "phases.pretrain.learning_rate" in output
    code, output = run(write_config(corpus, directory))
    assert code == 78 and "began from" in output


def test_stopped_and_killed_it_ends_in_the_same_numbers(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    """SIGTERM in the second phase, behind an edge, kill -9 in the last: losses, gradients and answers equal the uninterrupted run's bit for bit."""
    directory = tmp_path / "run"
    file = write_config(corpus, directory)
    process = start(file)
    wait_for_step(process, directory, STEPS["text"] + 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 77, errors
    assert "same command" in errors
    stopped_at = metrics(directory)[-1]["step"]
    assert stopped_at < TOTAL
    process = start(file)
    wait_for_step(process, directory, TOTAL - 1)
    process.kill()
    _, errors = process.communicate()
    assert f"resumed after step {stopped_at}" in errors, "the signal saved"
    code, output = run(file)
    assert code == 0, output
    assert metrics(directory) == metrics(whole)
    assert answers(directory) == answers(whole)


@pytest.mark.nightly
def test_moments_in_host_memory_come_back(corpus: pathlib.Path, tmp_path: pathlib.Path):
    """Offloaded and in bfloat16, saved in the middle of a phase: the numbers of an uninterrupted run bit for bit, over the phase's edge too."""
    values = {f"optimizer__{key}": value for key, value in {"offload": True, "mu_dtype": "bfloat16", "nu_dtype": "bfloat16"}.items()}
    values |= {
        "curriculum": ("pretrain", "mid"),
        "run__keep_checkpoints": 9,
        "evaluation__questions": 1,
        "evaluation__interim_questions": 1,
    }
    whole, directory = tmp_path / "whole", tmp_path / "run"
    code, output = run(write_config(corpus, whole, **values))
    assert code == 0, output
    shutil.copytree(whole, directory)
    for path in (directory / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > 2:
            shutil.rmtree(path)
    code, output = run(write_config(corpus, directory, **values))
    assert code == 0, output
    assert "resumed after step 2" in output
    assert metrics(directory) == metrics(whole)


def test_a_changed_configuration_is_refused_in_the_same_directory(corpus: pathlib.Path, whole: pathlib.Path):
    code, output = run(write_config(corpus, whole, phases__mid__learning_rate=0.5))
    assert code == 78
    assert "phases.mid.learning_rate" in output and "Traceback" not in output
    code, output = run(write_config(corpus, whole, data__threads=3))
    assert code == 0, output
    assert "data.threads" in (whole / "config_changes.jsonl").read_text()


@pytest.mark.nightly
def test_a_finished_run_goes_on_with_more_phases(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    """Another phase behind the last one that was trained, whose settings changed meanwhile: the numbers of a run that had it from the start."""
    directory = tmp_path / "run"
    file = write_config(corpus, directory, curriculum=("text", "pretrain"), phases__mid__steps=77)
    code, output = run(file)
    assert code == 0, output
    code, output = run(write_config(corpus, directory))
    assert code == 0, output
    assert metrics(directory) == metrics(whole) and answers(directory) == answers(whole)
    assert "curriculum: ['text', 'pretrain'] -> ['text', 'pretrain', 'mid']" in (directory / "config_changes.jsonl").read_text()


def test_a_loss_that_is_not_finite_stops_the_run(corpus: pathlib.Path, tmp_path: pathlib.Path):
    directory = tmp_path / "run"
    code, output = run(write_config(corpus, directory, phases__pretrain__learning_rate=1e30, phases__pretrain__warmup_ratio=0.0))
    assert code == 70, output
    assert "of phase pretrain" in output and "caption/caption.jsonl:" in output and "Traceback" not in output
    assert [path.name for path in (directory / "checkpoints").iterdir() if path.name.isdigit()], "the last good checkpoint is kept"
    last = max(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
    assert last <= STEPS["text"] + 1


@pytest.mark.nightly
def test_two_processes_do_not_share_a_directory(corpus: pathlib.Path, tmp_path: pathlib.Path):
    directory = tmp_path / "run"
    file = write_config(
        corpus, directory, curriculum=("text",), phases__text__steps=10_000
    )  # the first is still there when the second looks
    first = start(file)
    wait_for_step(first, directory, 1)
    code, output = run(file)
    first.kill()
    first.communicate()
    assert code == 78 and "in use" in output


def test_corrupt_media_are_left_out_and_named(corpus: pathlib.Path, tmp_path: pathlib.Path):
    """A truncated picture in a training source: skipped, counted, named; and too many of them stop the run."""
    record = json.loads((corpus / "train" / "large.jsonl").read_text().splitlines()[0])
    broken = tmp_path / "broken"
    broken.mkdir()
    picture = (corpus / record["image"]).read_bytes()
    (broken / "a.jpg").write_bytes(picture[: len(picture) // 2])
    rows = [json.dumps(record | {"image": "a.jpg", "id": f"broken-{i}"}) for i in range(20)]
    (broken / "rows.jsonl").write_text("\n".join(rows) + "\n")
    file = write_config(
        corpus,
        tmp_path / "run",
        data__sources__large__path=str(broken / "rows.jsonl"),
        data__sources__large__media_root=str(broken),
        data__max_failure_run=3,
        data__minimum_samples=1000,  # the share is judged later: it is the run of failures that stops
        phases__mid__mixture={"large": 1.0},
        curriculum=("mid",),
    )
    code, output = run(file)
    assert code == 65, output
    assert "truncated" in output and "Traceback" not in output
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) >= 3
    assert all(line["reason"] == "truncated" and line["key"].startswith("rows.jsonl:") for line in skipped)


@pytest.mark.nightly
def test_changed_data_is_refused_in_the_same_directory(corpus: pathlib.Path, tmp_path: pathlib.Path):
    """A row more in a source permutes it anew: a resumed run would repeat some samples and miss others."""
    directory, source = tmp_path / "run", tmp_path / "large.jsonl"
    rows = (corpus / "train" / "large.jsonl").read_text()
    source.write_text(rows)
    file = write_config(corpus, directory, data__sources__large__path=str(source), curriculum=("mid",), phases__mid__steps=300)
    process = start(file)
    wait_for_step(process, directory, 5)  # that of step 2 is written: it is awaited before step 4 is saved
    process.kill()
    process.communicate()
    source.write_text(rows + rows.splitlines()[0] + "\n")
    code, output = run(file)
    assert code == 78, output
    assert "source large changed since step" in output and "Traceback" not in output


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_read(corpus: pathlib.Path, tmp_path: pathlib.Path):
    """Of any phase, the last one too."""
    mesh = {"data": 2, "fsdp": 1, "context": 1, "tensor": 1}
    code, output = run(write_config(corpus, tmp_path / "run", phases__mid__mesh=mesh))
    assert code == 78, output
    assert "phases.mid.mesh: data 2 x fsdp 1 x context 1 x tensor 1 does not make 1 devices" in output and "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_finished_run_goes_on(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    """With more steps of its last phase and another phase; other questions are asked again."""
    directory = pathlib.Path(shutil.copytree(whole, tmp_path / "run"))
    code, output = run(write_config(corpus, directory, evaluation__questions=1))
    assert code == 0, output
    assert "mid: held-out questions are answered again (questions changed)" in output
    assert all(each.questions == 1 for each in read_evaluations(directory)[0][-1].scores.values())
    more = {"phases__mid__steps": STEPS["mid"] + 2, "phases__mid__learning_rate": 1e-4}
    code, output = run(write_config(corpus, directory, **more))
    assert code == 78 and "phases.mid.learning_rate" in output and "phases.mid.steps" not in output
    assert "or go on with them on purpose: run.overrides=phases.mid.learning_rate" in output
    more["run__overrides"] = ("phases.mid.learning_rate",)
    code, output = run(write_config(corpus, directory, **more))
    assert code == 0, output
    lines = metrics(directory)
    assert [line["step"] for line in lines] == list(range(1, TOTAL + 3)) and lines[:TOTAL] == metrics(whole)
    assert json.loads((directory / "continued_phases.json").read_text()) == {"mid": [2 * STEPS["mid"]]}
    assert [each.phase for each in read_evaluations(directory)[0]] == list(STEPS)
    assert "phases.mid.steps: 4 -> 6" in (directory / "config_changes.jsonl").read_text()
    assert read_record(directory / "checkpoints" / str(TOTAL + 2))[0].position.phase_step == STEPS["mid"] + 2


def test_a_finished_run_started_again_reports_the_same(corpus: pathlib.Path, whole: pathlib.Path):
    before = (whole / "report.json").read_text()
    code, output = run(write_config(corpus, whole))
    assert code == 0, output
    assert (whole / "report.json").read_text() == before


@pytest.mark.nightly
def test_a_run_whose_directory_is_lost_goes_on_from_its_copy(corpus: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path):
    directory = tmp_path / "run"
    file = write_config(corpus, directory, run__copies=str(tmp_path / "slow"))
    process = start(file)
    wait_for_step(process, directory, 7)
    process.send_signal(signal.SIGTERM)
    output = "".join(process.communicate(timeout=TIMEOUT))
    assert process.returncode == 77, output
    shutil.rmtree(directory)
    code, output = run(file)
    assert code == 0 and "the copy in" in output and "resumed after step" in output, output
    assert metrics(directory) == metrics(whole)
