"""Signals are obeyed where stopping loses nothing; data that stalls ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from neo_jax import exit_codes
from neo_jax.training.stopping import Preempted, StallGuard, StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handler_before_comes_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        stop.check("indexing")
        assert not stop.reached()
        os.kill(os.getpid(), number)
        assert stop.requested and stop.reached()
        with pytest.raises(Preempted, match="stopped while indexing; nothing is lost: the same command continues from there"):
            stop.check("indexing")
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_progress_keeps_the_guard_quiet_and_none_ends_it():
    ended, said = threading.Event(), []

    def end(message):
        said.append(message)
        ended.set()

    with StallGuard(0.2, 0.3, end) as guard:
        with guard.watching("reading rows"):
            for _ in range(20):
                guard.beat()
        assert not said
        with guard.watching("reading rows of phase mid"):
            assert ended.wait(30)
        assert said[0].startswith("reading rows of phase mid: no progress for 0 s (data.stall_seconds)")
        ended.clear()
        with guard.watching_devices("computing step 5"):
            assert ended.wait(30)
    assert said[1].startswith("computing step 5: no progress for 0 s (run.hang_seconds)")


STALLED = """
import os, sys
from neo_jax.training.stopping import StallGuard
os.mkfifo(sys.argv[1])
with StallGuard(0.5, 60) as guard, guard.watching("reading rows"):
    open(sys.argv[1]).read()  # as on a dead file system: nobody writes
"""


def test_a_stalled_process_ends_with_75_and_shows_where_it_stood(tmp_path):
    done = subprocess.run([sys.executable, "-c", STALLED, str(tmp_path / "fifo")], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == exit_codes.TRY_AGAIN
    assert 'File "<string>", line 6 in <module>' in done.stderr and "reading rows: no progress for" in done.stderr
