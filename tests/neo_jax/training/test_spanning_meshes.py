"""Axes other than data and fsdp that span processes: several processes read the same rows, and each decodes what its devices hold of them."""

import pathlib
import shutil
import socket

import numpy as np
import pytest

from tests.neo_jax.training.running import TIMEOUT, answers, metrics, run, start, write_config

SPANNING = {"data": 1, "fsdp": 1, "context": 4, "tensor": 2}  # tokens of a row on two processes, each of which reads every row
WHOLE = {"data": 1, "fsdp": 1, "context": 1, "tensor": 1}


def config(corpus: pathlib.Path, directory: pathlib.Path, mesh: dict[str, int]) -> pathlib.Path:
    values = {"model__heads": 2, "model__kv_heads": 2, "run__heldout_rows": 1, "run__heldout_every": 0, "curriculum": ("mid",)}
    values |= {f"phases__mid__{key}": value for key, value in {"mesh": mesh, "steps": 2, "rows_per_step": 4, "accumulate": 2}.items()}
    return write_config(corpus, directory, **values, evaluation__questions=1, data__max_failure_rate=0.9)


def damaged(corpus: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """A copy of the corpus in which every fourth image ends early; its header is whole."""
    shutil.copytree(corpus, copy)
    for path in sorted(copy.rglob("*.jpg"))[::4]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
    return copy


@pytest.mark.nightly
def test_context_and_tensor_over_processes_give_the_numbers_of_one_device(corpus, tmp_path):
    """Two processes with four devices each against one device, on data of which a part cannot be decoded."""
    corpus = damaged(corpus, tmp_path / "corpus")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    file = config(corpus, tmp_path / "two", SPANNING)
    flags = ["--processes=2", f"--coordinator=127.0.0.1:{port}", "--cpu-devices=4"]
    group = [start(file, *flags, f"--process={number}") for number in range(2)]
    outputs = [process.communicate(timeout=TIMEOUT) for process in group]
    assert [process.returncode for process in group] == [0] * 2, outputs
    code, output = run(config(corpus, tmp_path / "one", WHOLE), "--processes=1", "--cpu-devices=1")
    assert code == 0, output
    ours, expected = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(ours) == len(expected) == 2
    for mine, theirs in zip(ours, expected, strict=True):
        for key in ("step", "phase", "tokens", "fill"):
            assert mine[key] == theirs[key], (theirs["step"], key)
        for key in ("loss", "gradient_norm"):
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-5, err_msg=f"{key} of step {theirs['step']}")
        for key in ("source_loss", "heldout_loss"):
            one, other = mine[key] or {}, theirs[key] or {}
            assert one.keys() == other.keys()
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5, err_msg=f"{key} of step {theirs['step']}")
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    skipped = [sorted(path.read_text().splitlines()) for path in tmp_path.glob("*/skipped*.jsonl") if "heldout" not in path.name]
    assert len(skipped) == 3 and skipped[0] == skipped[1] == skipped[2] != []
