"""The supervisor starts a stopped run again, gives up without progress, and leaves final errors alone."""

import importlib.util
import itertools
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("launch_local", ROOT / "launch" / "local.py")
local = importlib.util.module_from_spec(spec)
spec.loader.exec_module(local)

# Counts its starts in a file; writes a "checkpoint" at each start where asked to; exits with the codes of its list in turn.
PROGRAM = """
import pathlib, sys
folder, progress, codes = pathlib.Path(sys.argv[1]), sys.argv[2] == "progress", [int(code) for code in sys.argv[3].split(",")]
count = len(list(folder.glob("start-*")))
(folder / f"start-{count}").touch()
if progress:
    (folder / "checkpoints" / str(count)).mkdir(parents=True)
sys.exit(codes[min(count, len(codes) - 1)])
"""


@pytest.mark.parametrize(
    ("progress", "codes", "starts", "last"),
    [
        ("progress", "77,1,137,0", 4, 0),
        ("none", "1", local.RETRIES, 1),
        ("none", "77,0", 2, 0),
        ("progress", "65", 1, 65),
        ("progress", "78", 1, 78),
        ("progress", "70", 1, 70),
    ],
)
def test_restarts(tmp_path, progress, codes, starts, last):
    code = local.supervise([sys.executable, "-c", PROGRAM, str(tmp_path), progress, codes], tmp_path)
    assert (code, len(list(tmp_path.glob("start-*")))) == (last, starts)


def test_usage(capsys):
    assert local.main(["python", "train"]) == 78
    assert "usage" in capsys.readouterr().err
    assert local.main(["--", "python", "-m", "neo_jax.train", "--config=configs/none.py"]) == 78


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--processes=2 -- python", "needs --devices"),
        ("--processes=none --devices=2 -- python", "must be a whole number of at least 1"),
        ("--devices=0 -- python", "must be a whole number of at least 1"),
        ("--proceses=2 --devices=2 -- python", "did you mean 'processes'"),
    ],
)
def test_flags_that_are_wrong(capsys, arguments, sentence):
    assert local.main(arguments.split()) == 78
    assert sentence in capsys.readouterr().err


# One of a group, by its --process: says who it is, then does what its own argument asks.
MEMBER = """
import os, signal, sys, time
flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
action = sys.argv[1].split(",")[int(flags["process"])]
print("out", flags["process"], flush=True)
print("err", flags["process"], flags["processes"], flags["cpu-devices"], file=sys.stderr, flush=True)
if action == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if action == "save":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
    print("ready", file=sys.stderr, flush=True)
if not action.isdecimal():
    time.sleep(600)
sys.exit(int(action))
"""


def group(actions: str) -> int:
    return local.Group([sys.executable, "-c", MEMBER, actions], actions.count(",") + 1, 2).wait()


def test_output_of_a_group(capfd):
    assert group("0,0,0") == 0
    output, errors = capfd.readouterr()
    assert output == "out 0\n"
    assert sorted(errors.splitlines()) == ["[1] err 1 3 2", "[2] err 2 3 2", "err 0 3 2"]


@pytest.mark.parametrize(("actions", "code"), [("0,65", 65), ("wait,70", 70), ("78,deaf,wait", 78), ("1,0,77", 77), ("0,1", 1)])
def test_one_that_ends_badly_ends_its_group(monkeypatch, actions, code):
    monkeypatch.setattr(local, "END_SECONDS", 0.5)
    assert group(actions) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_ends_it(tmp_path, number):
    config = tmp_path / "config.py"
    config.write_text(f"import runpy\nget_config = runpy.run_path({str(ROOT / 'configs' / 'demo.py')!r})['get_config']\n")
    command = [sys.executable, "-c", MEMBER, "save,save", f"--config={config}"]
    launcher = subprocess.Popen(
        [sys.executable, ROOT / "launch" / "local.py", "--processes=2", "--devices=1", "--", *command], stderr=subprocess.PIPE, text=True
    )
    said = iter(launcher.stderr.readline, "")
    assert len(list(itertools.islice((line for line in said if "ready" in line), 2))) == 2
    launcher.send_signal(number)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 77
