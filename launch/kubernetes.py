"""Calls kubectl: what it says of JobSets and their pods."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.printable import printable
from launch.targets.jobset import CONTAINER
from neo_jax.config import ConfigError
from neo_jax.exit_codes import DONE, FAILED, FINAL, PREEMPTED

POLL_SECONDS = 5.0
NAME = "jobset.sigs.k8s.io/jobset-name"  # label of pods, and those by which the first pod is found
INDICES = ("jobset.sigs.k8s.io/job-index", "batch.kubernetes.io/job-completion-index")


class ClusterError(RuntimeError):
    """kubectl fails; with what it says."""


def ask(*words: str, text: str | None = None) -> str:
    """Calls kubectl and returns what it prints.

    Args:
      words: arguments.
      text: its standard input.

    Raises:
      ClusterError: it fails, or does not answer in time.
    """
    command = ["kubectl", *words, "--request-timeout=60s"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        said = printable(result.stderr.strip(), keep="\n") or "it says nothing"
        raise ClusterError(f"kubectl {words[0]} failed with exit code {result.returncode}: {said}")
    return result.stdout


def check_kubectl() -> None:
    """Raises ConfigError if there is no kubectl, and ClusterError if its cluster does not answer or knows no JobSets."""
    if shutil.which("kubectl") is None:
        raise ConfigError(["kubectl: no such program here; it is the client of Kubernetes: install it and name a cluster to it"])
    ask("get", "jobsets", "--output=name")


class Cluster:
    """A cluster that is asked until it answers. Its silence and its next answer are said once, however many threads ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent = False

    def ask(self, *words: str) -> str:
        """Calls kubectl, again and again where it fails; returns what it prints."""
        while True:
            try:
                answer = ask(*words)
            except ClusterError as error:
                self._hear(str(error))
                time.sleep(POLL_SECONDS)
            else:
                self._hear("")
                return answer

    def jobset(self, name: str) -> dict[str, Any] | None:
        """Returns a JobSet; None if there is none of the name."""
        answer = self.ask("get", "jobset", name, "--ignore-not-found", "--output=json")
        return json.loads(answer) if answer.strip() else None

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Returns the pods of a JobSet, the first process's first."""
        found = json.loads(self.ask("get", "pods", f"--selector={NAME}={name}", "--output=json"))["items"]
        return sorted(found, key=lambda pod: [int(pod["metadata"]["labels"].get(label, 0)) for label in INDICES])

    def delete(self, name: str) -> None:
        """Deletes a JobSet, if it is there, and waits until its pods are gone too: they get SIGTERM, and their grace period."""
        self.ask("delete", "jobset", name, "--ignore-not-found", "--cascade=foreground", "--wait=false")
        while self.jobset(name) or self.pods(name):
            time.sleep(min(POLL_SECONDS, 1.0))

    def _hear(self, problem: str) -> None:
        with self._lock:
            if problem and not self._silent:
                say(f"{problem}; asking again until it answers")
            elif self._silent and not problem:
                say("kubectl answers again")
            self._silent = bool(problem)


def exit_code(jobset: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> tuple[int, str] | None:
    """Returns how a JobSet has ended; None if it has not.

    Returns:
      The exit code that best explains it, and the pod that had it, "" if none says it. Never PREEMPTED: what failed has used up its restarts.
    """
    ended = {each["type"] for each in jobset.get("status", {}).get("conditions", ()) if each["status"] == "True"}
    if "Completed" in ended:
        return DONE, ""
    if "Failed" not in ended:
        return None
    codes = {code: pod["metadata"]["name"] for pod in reversed(pods) for code in _codes(pod) if code != DONE}
    best = next((code for code in (*FINAL, *codes) if code in codes), FAILED)
    return FAILED if best == PREEMPTED else best, codes.get(best, "")


def _codes(pod: Mapping[str, Any]) -> list[int]:
    containers = pod.get("status", {}).get("containerStatuses", ())
    return [each["state"]["terminated"]["exitCode"] for each in containers if each["name"] == CONTAINER and "terminated" in each["state"]]


def say(sentence: str) -> None:
    print(f"jobset: {sentence}", file=sys.stderr, flush=True)
