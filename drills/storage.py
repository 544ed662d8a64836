"""Storage that stalls, fills up or is gone."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

from drills.lab import Lab, Run, being_saved, expect, last_step, members, same, saved
from drills.tiny import STEPS

DISK_BYTES = 24 << 20  # of the file system that is filled
LEFT_BYTES = 256 << 10  # enough for metrics, too little for a checkpoint


def _own_pictures(lab: Lab, folder: pathlib.Path) -> tuple[dict, list[pathlib.Path]]:
    """Settings of a run with its own copy of the source "large", and the pictures of that copy."""
    shutil.copytree(lab.root / "corpus", folder / "corpus", ignore=shutil.ignore_patterns("tfds"))
    settings = {
        "data__sources__large__path": folder / "corpus/train/large.jsonl",
        "data__sources__large__media_root": folder / "corpus",
        "data__index_folder": folder / "index",
    }
    pictures = sorted(path for path in (folder / "corpus").rglob("*") if path.suffix in (".png", ".jpg", ".jpeg") and "large" in str(path))
    expect(pictures, "the source has no pictures")
    return settings, pictures


def _stall(run: Run, pictures: list[pathlib.Path]) -> None:
    """Puts a FIFO, which nobody writes, in the place of each picture while the run stands still before it has read any."""
    run.until_step(2)
    run.process.send_signal(signal.SIGSTOP)
    pids = list(members(run).values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    expect(last_step(run.directory) < STEPS["text"], "the phase with pictures has begun")
    for picture in pictures:
        picture.rename(picture.with_suffix(".kept"))
        os.mkfifo(picture)
    for pid in [*pids, run.process.pid]:
        os.kill(pid, signal.SIGCONT)


def _come_back(pictures: list[pathlib.Path]) -> None:
    for picture in pictures:
        picture.with_suffix(".kept").rename(picture)


def stalled_storage(lab: Lab, folder: pathlib.Path) -> str:
    """Pictures (FIFOs) that hang for longer than data.stall_seconds: 75 with stacks, started again, equal bit for bit once they are back."""
    settings, pictures = _own_pictures(lab, folder)
    run = lab.launch(folder / "run", 1, 0, data__stall_seconds=5, **settings)
    _stall(run, pictures)
    began = time.monotonic()
    run.until(lambda: "ended with exit code 75" in run.said, "it ended with 75")
    seconds = time.monotonic() - began
    _come_back(pictures)
    run.end(0)
    expect(
        "no progress for 5 s" in run.said and "data.stall_seconds" in run.said and "Thread 0x" in run.said, "it does not say where it stood"
    )
    return f"ended {seconds:.0f} s after the stall with a limit of 5 s; {same(run.directory, lab.undisturbed())}"


def storage_comes_back(lab: Lab, folder: pathlib.Path) -> str:
    """Pictures whose opening hangs for 10 s, less than data.stall_seconds: the run waits, is not started again, equal bit for bit."""
    stall = folder / "stall"
    run = lab.launch(folder / "run", 1, 0, program=("-m", "drills.programs.stalling", str(stall)), data__stall_seconds=300)
    run.until_step(2)
    stall.touch()
    expect(last_step(run.directory) <= STEPS["text"], "the phase with pictures has begun")
    run.until((folder / "stall.waiting").exists, "it waited for a picture")
    run.until_step(STEPS["text"])
    time.sleep(10)
    step = last_step(run.directory)
    expect(STEPS["text"] <= step < STEPS["text"] + 8 and run.process.poll() is None, f"it did not wait: step {step}")
    stall.unlink()
    run.end(0)
    expect("starting it again" not in run.said, "it was started again")
    return f"waited after step {step}; {same(run.directory, lab.undisturbed())}"


@contextlib.contextmanager
def _small_disk(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of its own in memory; needs root."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)], capture_output=True, text=True, check=False
    )
    expect(done.returncode == 0, f"a file system of {DISK_BYTES >> 20} MiB cannot be mounted (root is needed): {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(place: pathlib.Path, left: int) -> pathlib.Path:
    """Fills a file system but for so many bytes."""
    file, free = place / "filler", shutil.disk_usage(place).free
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free - left)
    expect(shutil.disk_usage(place).free <= left, "the disk is not full")
    return file


def _goes_on_with_room(lab: Lab, run: Run, filler: pathlib.Path, processes: int, before: list[int], undisturbed: pathlib.Path) -> str:
    after = saved(run.directory)
    expect(set(before) <= set(after), f"checkpoints {set(before) - set(after)} were lost")
    filler.unlink()
    again = lab.launch(run.directory, processes, processes - 1)
    again.end(0)
    expect(f"resumed after step {after[-1]}" in again.said, f"it did not resume after step {after[-1]}")
    expect(not being_saved(run.directory), "parts of the checkpoint are left")
    return f"resumed after step {after[-1]}; {same(run.directory, undisturbed)}"


def _full_before(lab: Lab, folder: pathlib.Path, processes: int, undisturbed: pathlib.Path) -> str:
    with _small_disk(folder / "disk") as disk:
        first = lab.launch(disk / "run", processes, processes - 1)
        first.until_saved(4)
        first.process.send_signal(signal.SIGTERM)
        first.end(77)
        before, filler = saved(first.directory), _fill(disk, LEFT_BYTES)
        run = lab.launch(first.directory, processes, processes - 1)
        seconds = run.end(78)
        expect("a checkpoint needs" in run.said and "Traceback" not in run.said, f"it does not end with one sentence: {run.said[-1500:]}")
        return f"78 after {seconds:.1f} s; {_goes_on_with_room(lab, run, filler, processes, before, undisturbed)}"


def _full_during(lab: Lab, folder: pathlib.Path, processes: int, undisturbed: pathlib.Path) -> str:
    for attempt in range(1, 11):
        with _small_disk(folder / f"disk{attempt}") as disk:
            run = lab.launch(disk / "run", processes, processes - 1)
            run.until_saving(8)
            pids = list(members(run).values())
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            before = saved(run.directory)
            if not being_saved(run.directory):  # the save was faster than this program
                run.stop_all()
                continue
            filler = _fill(disk, 0)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            seconds = run.end(78)
            expect("No space left on device" in run.said and "Traceback" not in run.said, f"not one sentence: {run.said[-1500:]}")
            return f"78 after {seconds:.1f} s; {_goes_on_with_room(lab, run, filler, processes, before, undisturbed)}"
    expect(False, "no filled disk hit a save in 10 attempts")
    return ""


def disk_full_before(lab: Lab, folder: pathlib.Path) -> str:
    """A disk that is full before a save: one sentence, 78, checkpoints untouched; with room it goes on, equal bit for bit."""
    return _full_before(lab, folder, 1, lab.undisturbed())


def disk_full_during(lab: Lab, folder: pathlib.Path) -> str:
    """A disk that fills up while a checkpoint is written: one sentence, 78, leftovers gone at the next start; it goes on, equal bit for bit."""
    return _full_during(lab, folder, 1, lab.undisturbed())


def disk_full_before_pair(lab: Lab, folder: pathlib.Path) -> str:
    """A disk that is full before a save of two processes: the same."""
    return _full_before(lab, folder, 2, lab.pair())


def disk_full_during_pair(lab: Lab, folder: pathlib.Path) -> str:
    """A disk that fills up while two processes write a checkpoint: the same."""
    return _full_during(lab, folder, 2, lab.pair())


def unmounted(lab: Lab, folder: pathlib.Path) -> str:
    """The folder of checkpoints is away: 78 and a question whether it is mounted, nothing begun anew; once it is back, equal bit for bit."""
    run = lab.train(folder / "run")
    run.until_saved(10)
    run.kill()
    checkpoints, away = run.directory / "checkpoints", folder / "away"
    checkpoints.rename(away)
    second = lab.train(run.directory)
    second.end(78)
    expect("is the folder missing or not mounted?" in second.said and "Traceback" not in second.said, second.said[-500:])
    expect(not list(checkpoints.glob("*")), "checkpoints were begun anew")
    shutil.rmtree(checkpoints, ignore_errors=True)
    away.rename(checkpoints)
    newest = saved(run.directory)[-1]
    third = lab.train(run.directory)
    third.end(0)
    expect(f"resumed after step {newest}" in third.said, "it did not resume")
    return same(run.directory, lab.undisturbed())


DRILLS = (
    stalled_storage, storage_comes_back, disk_full_before, disk_full_during, disk_full_before_pair, disk_full_during_pair, unmounted,
)  # fmt: skip
