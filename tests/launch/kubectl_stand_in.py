"""Stands for kubectl and a cluster with JobSets: really runs the container's command here, one process a JobSet, and keeps in a folder what there is.

JobSet and pod are answered with the fields of the real ones that the launcher reads. Of the controllers it does what the manifest says: it starts the
process again unless its exit code is final by the rule or the restarts are used up; what is deleted gets SIGTERM, and is there until it has ended.

objects/NAME/   manifest.json; pod (number of the pod's keeper); attempts, code, log, status (Completed or Failed); deleting
calls.txt       a line a call          broken, refuse   if the file exists, every call, or every apply, fails with what is in it
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]  # the image's folder


def install(folder: pathlib.Path) -> pathlib.Path:
    """Writes the program to a folder, and returns it."""
    (folder / "objects").mkdir(parents=True)
    (folder / "kubectl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{folder}" "$@"\n')
    (folder / "kubectl").chmod(0o755)
    return folder


def calls(folder: pathlib.Path, word: str) -> int:
    path = folder / "calls.txt"
    return sum(line.split()[0] == word for line in (path.read_text().splitlines() if path.exists() else ()))


def manifests(folder: pathlib.Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in (folder / "objects").glob("*/manifest.json")}


def end_all(folder: pathlib.Path) -> None:
    """Kills what a test has left."""
    for path in (folder / "objects").glob("*/pod"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def main(folder: pathlib.Path, arguments: list[str]) -> int:
    words = [each for each in arguments if not each.startswith("--")]
    options = dict(each.removeprefix("--").partition("=")[::2] for each in arguments if each.startswith("--"))
    with (folder / "calls.txt").open("a") as file:
        file.write(" ".join(arguments) + "\n")
    for name in ("broken", *(["refuse"] if words[0] == "apply" else [])):
        if (folder / name).exists():
            print((folder / name).read_text(), file=sys.stderr)
            return 1
    match words:
        case ["apply"]:
            import yaml

            apply(folder, yaml.safe_load(sys.stdin.read()))
        case ["get", "jobsets"]:
            print("".join(f"jobset.jobset.x-k8s.io/{name}\n" for name in manifests(folder)), end="")
        case ["get", "jobset", name]:
            if (folder / "objects" / name / "manifest.json").exists():
                print(json.dumps(jobset(folder / "objects" / name)))
            elif "ignore-not-found" not in options:
                print(f'Error from server (NotFound): jobsets.jobset.x-k8s.io "{name}" not found', file=sys.stderr)
                return 1
        case ["get", "pods"]:
            label, _, name = options["selector"].partition("=")
            assert label == "jobset.sigs.k8s.io/jobset-name"
            place = folder / "objects" / name
            print(json.dumps({"items": [pod(place)] if place.exists() else []}))
        case ["delete", "jobset", name]:
            if (folder / "objects" / name / "pod").exists():
                (folder / "objects" / name / "deleting").touch()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int((folder / "objects" / name / "pod").read_text()), signal.SIGTERM)
        case ["logs", name]:
            assert options["container"] == "train"
            print((folder / "objects" / name.removesuffix("-slice-0-0-abcde") / "log").read_text(), end="")
        case ["pod", name]:
            keep(folder / "objects" / name)
        case _:
            print(f"unknown command {words}", file=sys.stderr)
            return 1
    return 0


def apply(folder: pathlib.Path, manifest: dict) -> None:
    place = folder / "objects" / manifest["metadata"]["name"]
    assert not place.exists(), "applied twice"
    place.mkdir()
    (place / "manifest.json").write_text(json.dumps(manifest))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # else who waits for the output of kubectl waits for the pod
    keeper = subprocess.Popen([sys.executable, __file__, str(folder), "pod", place.name], start_new_session=True, **quiet)
    (place / "pod").write_text(str(keeper.pid))


def keep(place: pathlib.Path) -> None:
    """Is the controllers and the node of one JobSet, until it is deleted."""
    spec = json.loads((place / "manifest.json").read_text())["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    final = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    (container,) = job["template"]["spec"]["containers"]
    variables = os.environ | {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert container["command"][0] == "python"
    signal.signal(signal.SIGTERM, lambda *_: None)  # interrupts the sleeps below; `deleting` says what it means
    for _ in range(spec["failurePolicy"]["maxRestarts"] + 1):
        with (place / "log").open("w") as log:
            command = [sys.executable, *container["command"][1:], *container["args"]]
            process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
        while process.poll() is None and not (place / "deleting").exists():
            time.sleep(0.02)
        process.terminate()  # once: a second signal would meet a Python that is ending, without its handler
        process.wait()
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        (place / "code").write_text(str(code))
        with (place / "attempts").open("a") as file:
            file.write(f"{code}\n")
        if code == 0 or code in final or (place / "deleting").exists():
            break
    (place / "status.new").write_text("Failed" if code else "Completed")
    (place / "status.new").rename(place / "status")
    while not (place / "deleting").exists():
        time.sleep(0.02)
    place.rename(place.parent.parent / f"gone-{place.name}-{os.getpid()}")


def jobset(place: pathlib.Path) -> dict:
    manifest = json.loads((place / "manifest.json").read_text())
    ended = (place / "status").read_text() if (place / "status").exists() else ""
    conditions = [{"type": ended, "status": "True", "reason": "Ended", "message": f"jobset {ended.lower()}"}] if ended else []
    metadata = manifest["metadata"] | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if (place / "deleting").exists() else {})
    return manifest | {"metadata": metadata, "status": {"conditions": conditions}}


def pod(place: pathlib.Path) -> dict:
    ended = (place / "status").exists()
    state = {"terminated": {"exitCode": int((place / "code").read_text()), "reason": "Ended"}} if ended else {"running": {}}
    labels = {
        "jobset.sigs.k8s.io/jobset-name": place.name,
        "jobset.sigs.k8s.io/job-index": "0",
        "batch.kubernetes.io/job-completion-index": "0",
    }
    status = {"phase": "Running", "containerStatuses": [{"name": "train", "state": state}]}
    return {"metadata": {"name": f"{place.name}-slice-0-0-abcde", "labels": labels}, "status": status}


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
