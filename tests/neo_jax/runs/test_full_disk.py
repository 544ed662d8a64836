"""A full disk is recognised behind what libraries make of it; other errors are not."""

import asyncio
import errno
import pathlib
import subprocess
import sys
import types

import pytest

from neo_jax.runs.full_disk import disk_is_full, drop_closed_loops


def caused_by(error):
    try:
        raise RuntimeError("outer") from error
    except RuntimeError as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']"), True),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ExceptionGroup("several", [ValueError("x"), OSError(errno.ENOSPC, "full")]), True),
        (caused_by(OSError(errno.ENOSPC, "full")), True),
        (caused_by(ValueError("x")), False),
        (None, False),
    ],
)
def test_a_full_disk(error, full):
    assert disk_is_full(error) is full


def test_only_reports_to_a_closed_event_loop_are_not_printed(monkeypatch):
    """They begin where a thread of TensorStore calls the loop, with no Python around; the same error of one's own code is shown."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: shown.append(raised.exc_value))
    drop_closed_loops.__wrapped__()
    loop = asyncio.new_event_loop()
    loop.close()
    for call, others in ((lambda: loop.call_soon_threadsafe(print), []), (lambda: int("x"), [ValueError])):
        shown.clear()
        try:
            call()
        except Exception as error:
            own, without_python = error.__traceback__, error.__traceback__.tb_next.tb_next
            for traceback in (without_python, own):
                sys.unraisablehook(types.SimpleNamespace(exc_value=error, exc_traceback=traceback))
            assert [type(each) for each in shown] == [*others, type(error)]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(("error", "code"), [("OSError(28, 'No space left on device')", 78), ("ValueError('x')", 1)])
def test_a_log_on_the_full_disk_does_not_change_the_exit_code(error, code):
    program = f"import sys; from neo_jax.train import _report; sys.exit(_report({error}))"
    with pathlib.Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, "-c", program], stderr=full, timeout=60).returncode == code
