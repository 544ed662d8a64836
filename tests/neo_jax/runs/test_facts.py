"""run.json: what each start ran on; the commit read from a checkout's files."""

import dataclasses
import pathlib
import subprocess

from neo_jax.runs.facts import RunFacts, commit, read_facts, write_facts

HASH = "0123456789abcdef0123456789abcdef01234567"


def test_starts_are_kept_in_order(tmp_path):
    assert read_facts(tmp_path) == ([], None)
    first = RunFacts.now(parameters=1000)
    second = dataclasses.replace(first, device_count=99)
    write_facts(tmp_path, first)
    write_facts(tmp_path, second)
    assert read_facts(tmp_path) == ([first, second], None)
    assert first.versions["jax"] and first.processes == 1 and first.device_kind == "cpu"


def test_a_damaged_file_is_a_sentence_and_begun_anew(tmp_path):
    facts = RunFacts.now(parameters=1)
    for content in ("", "[]", "{}", '{"starts": [1]}', '{"starts": [{"device_kind": "x"}]}', '{"starts": 3}'):
        (tmp_path / "run.json").write_text(content)
        starts, problem = read_facts(tmp_path)
        assert starts == [] and problem is not None and "run.json is damaged" in problem and "\n" not in problem
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == ([facts], None)


def repository(folder: pathlib.Path, head: str, files: dict[str, str]) -> pathlib.Path:
    for name, content in {"HEAD": head, **files}.items():
        path = folder / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_commit_of_a_checkout(tmp_path):
    branch = "ref: refs/heads/a/b\n"
    assert commit(tmp_path) == ""
    assert commit(repository(tmp_path / "loose", branch, {"refs/heads/a/b": HASH + "\n"})) == HASH
    packed = f"# pack-refs with: peeled\n{'f' * 40} refs/heads/a\n{HASH} refs/heads/a/b\n^{'e' * 40}\n"
    assert commit(repository(tmp_path / "packed", branch, {"packed-refs": packed})) == HASH
    assert commit(repository(tmp_path / "detached", HASH + "\n", {})) == HASH
    assert commit(repository(tmp_path / "empty", branch, {})) == ""
    assert commit(repository(tmp_path / "damaged", "ref: refs/heads/x", {"refs/heads/x": "no hash"})) == ""


def test_commit_of_a_linked_worktree(tmp_path):
    main = repository(tmp_path / "main", "ref: refs/heads/main", {"refs/heads/side": HASH, "worktrees/w/commondir": "../..\n"})
    (main / ".git" / "worktrees" / "w" / "HEAD").write_text("ref: refs/heads/side\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".git").write_text(f"gitdir: {main}/.git/worktrees/w\n")
    assert commit(tmp_path / "w") == HASH


def test_git_agrees(tmp_path):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    assert commit(tmp_path) == found
