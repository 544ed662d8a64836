"""The supervisor starts a stopped run again, gives up without progress, and leaves final errors alone."""

import importlib.util
import pathlib
import sys

import pytest

spec = importlib.util.spec_from_file_location("launch_local", pathlib.Path(__file__).parents[2] / "launch" / "local.py")
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
