"""The supervisor starts a stopped run again, gives up without progress, and leaves final errors alone."""

import fcntl
import importlib.util
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

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
        ("--grace-seconds=0 -- python", "must be a whole number of at least 1"),
        ("--devices=0 -- python", "must be a whole number of at least 1"),
        ("--proceses=2 --devices=2 -- python", "did you mean 'processes'"),
    ],
)
def test_flags_that_are_wrong(capsys, arguments, sentence):
    assert local.main(arguments.split()) == 78
    assert sentence in capsys.readouterr().err


# One of a group, by its --process: makes itself known, then does what its own action says. A code: exits with it once all are ready.
# Every process, started by a member or a member itself, shares the lock of the file "alive" for as long as it lives.
MEMBER = """
import fcntl, os, pathlib, signal, subprocess, sys, time
flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[3:])
action, number, count = sys.argv[2].split(",")[int(flags["process"])], flags["process"], int(flags["processes"])
folder = pathlib.Path(sys.argv[1])
alive = os.open(folder / "alive", os.O_CREAT | os.O_RDWR)
fcntl.flock(alive, fcntl.LOCK_SH)
print("out", number, flush=True)
sys.stderr.write(f"err {number} {count} {flags['cpu-devices']}\\n")  # one write: what others say may stand between two
if action in ("deaf", "parent"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if action == "save":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
if action.startswith("parent"):  # of one that ignores SIGTERM too
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(3600)"
    subprocess.Popen([sys.executable, "-c", code], pass_fds=[alive], stdout=subprocess.PIPE).stdout.readline()
(folder / f"ready-{number}").touch()
code = action.removeprefix("parent")
if not code.isdecimal():
    time.sleep(3600)
while len(list(folder.glob("ready-*"))) < count:
    time.sleep(0.01)
sys.exit(int(code))
"""
HANG_SECONDS = 300  # after which a test fails instead of waiting for ever


def member(folder: pathlib.Path, actions: str) -> list[str]:
    return [sys.executable, "-c", MEMBER, str(folder), actions]


def group(folder: pathlib.Path, actions: str) -> int:
    return local.Group(member(folder, actions), actions.count(",") + 1, 2).wait()


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def wait_until_all_are_gone(folder: pathlib.Path) -> None:
    """Returns when no process holds the lock of MEMBER."""

    def gone() -> bool:
        with open(folder / "alive", "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    wait_until(gone, "a process was left")


def launch(folder: pathlib.Path, actions: str, *flags: str) -> subprocess.Popen[str]:
    """Starts the launcher as a command and returns when all members are ready."""
    config = folder / "config.py"
    config.write_text(f"import runpy\nget_config = runpy.run_path({str(ROOT / 'configs' / 'demo.py')!r})['get_config']\n")
    count = actions.count(",") + 1
    command = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={count}", "--devices=1", *flags, "--"]
    # A shell in the background ignores SIGINT, nohup SIGHUP, and the launcher leaves an ignored signal alone. An ignored signal is inherited, a
    # handler is not: the launcher begins with the default.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    try:
        launcher = subprocess.Popen([*command, *member(folder, actions), f"--config={config}"], stderr=subprocess.PIPE, text=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    wait_until(lambda: len(list(folder.glob("ready-*"))) == count, "the members did not become ready")
    return launcher


def test_output_of_a_group(tmp_path, capfd):
    assert group(tmp_path, "0,0,0") == 0
    output, errors = capfd.readouterr()
    assert output == "out 0\n"
    assert sorted(errors.splitlines()) == ["[1] err 1 3 2", "[2] err 2 3 2", "err 0 3 2"]


@pytest.mark.parametrize(("actions", "code"), [("0,65", 65), ("wait,70", 70), ("78,deaf,wait", 78), ("1,0,77", 77), ("0,1", 1)])
def test_one_that_ends_badly_ends_its_group(tmp_path, monkeypatch, actions, code):
    all_end = all(action.isdecimal() for action in actions.split(","))
    monkeypatch.setattr(local, "END_SECONDS", HANG_SECONDS if all_end else 0.0)
    assert group(tmp_path, actions) == code
    wait_until_all_are_gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_ends_it(tmp_path, number):
    launcher = launch(tmp_path, "save,save")
    launcher.send_signal(number)
    launcher.communicate(timeout=HANG_SECONDS)
    assert launcher.returncode == 77


def test_what_does_not_end_within_the_grace_time_is_killed(tmp_path):
    launcher = launch(tmp_path, "save,parent", "--grace-seconds=1")
    launcher.send_signal(signal.SIGTERM)
    errors = launcher.communicate(timeout=HANG_SECONDS)[1]
    assert launcher.returncode == 77  # of the one that ended by itself
    assert "still running after SIGTERM, killed: 1" in errors
    wait_until_all_are_gone(tmp_path)


def test_what_a_process_leaves_behind_ends_with_its_group(tmp_path):
    assert group(tmp_path, "parent0,parent0") == 0
    wait_until_all_are_gone(tmp_path)


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path):
    launcher = launch(tmp_path, "parent,deaf,wait")
    launcher.kill()
    wait_until_all_are_gone(tmp_path)
    launcher.communicate()


def test_a_signal_that_the_launcher_was_started_with_ignored_stays_ignored(tmp_path):
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    program = "import os, signal; os.kill(os.getppid(), signal.SIGHUP)"
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), "--", sys.executable, "-c", program]
    command = [sys.executable, "-c", code, *launcher, f"--config={ROOT / 'configs' / 'demo.py'}"]
    assert subprocess.run(command, timeout=HANG_SECONDS).returncode == 0


def test_no_module_of_launch_has_the_name_of_another():
    """`python launch/local.py` looks for modules in launch/ first: launch/array.py would be what the standard library's socket imports."""
    modules = {path.name.partition(".")[0] for path in (ROOT / "launch").iterdir()}
    assert not modules & set(sys.stdlib_module_names)


def test_the_launcher_imports_no_trainer():
    code = f"import runpy, sys; runpy.run_path({str(ROOT / 'launch' / 'local.py')!r}); print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in subprocess.check_output([sys.executable, "-c", code], text=True).split()}
    assert "neo_jax" in loaded and not loaded & {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "av", "cv2"}


# Writes its secret and its command line into files.
TELLS = """
import os, pathlib, sys
flags = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
folder, number = pathlib.Path(sys.argv[1]), flags["process"]
(folder / f"secret-{number}").write_text(os.environ["NEO_JAX_SECRET"])
(folder / f"command-{number}").write_bytes(pathlib.Path("/proc/self/cmdline").read_bytes())
"""


def test_each_start_has_a_secret_of_its_own_on_no_command_line(tmp_path):
    secrets = []
    for _ in range(2):
        assert local.Group([sys.executable, "-c", TELLS, str(tmp_path)], 2, 1).wait() == 0
        first, second = ((tmp_path / f"secret-{number}").read_text() for number in range(2))
        assert first == second and len(first) == 64
        assert all(first.encode() not in (tmp_path / f"command-{number}").read_bytes() for number in range(2))
        secrets.append(first)
    assert secrets[0] != secrets[1]
