"""The command: a question from the command line and a conversation from the terminal, on a run and on a published folder; what it refuses."""

import pathlib
import shutil
import types

import pytest
from PIL import Image

from configs.demo import get_config
from data_pipelines.text.special_tokens import write_with_special_tokens
from neo_jax import chat, export
from neo_jax.config import Config
from neo_jax.exit_codes import CONFIGURATION, DATA, DONE
from tests.neo_jax.saved_run import saved_run

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def small_config() -> Config:
    """A small NEO over the golden tokenizer."""
    values = get_config()
    values.model.update({"hidden": 32, "mlp": 48, "heads": 2, "kv_heads": 2, "base_layers": 1, "patch_channels": 16, "vocabulary": 768})
    values.tokenizer.path = str(GOLDEN / "tokenizer.json")
    values.curriculum = ("mid_256",)
    values.phases = {"mid_256": values.phases["mid_256"]}
    return Config.from_config_dict(values)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A small NEO of random parameters."""
    return saved_run(tmp_path_factory.mktemp("chat") / "run", small_config())


@pytest.fixture
def picture(tmp_path) -> pathlib.Path:
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "red, or so.png")
    return tmp_path / "red, or so.png"


def ask(*arguments: str) -> int:
    return chat.main([*arguments, "--max-tokens=4"])


def test_a_question_is_answered(run, tmp_path, picture, capsys, monkeypatch):
    """The export of a run gives the run's answers. Places may be relative."""
    plain = shutil.copy(picture, tmp_path / "a.png")
    monkeypatch.chdir(run.parent)
    assert ask(f"--checkpoint={run.name}", f"--image={plain}", "What is it?") == DONE
    out, err = capsys.readouterr()
    assert out.strip() and out.count("\n") >= 1 and "reading" in err and "parameters, float32" in err
    assert export.main([f"--checkpoint={run}", f"--output={tmp_path / 'out'}"]) == DONE
    capsys.readouterr()
    sizes = ("--context=512", "--min-pixels=1024", "--max-pixels=9216")
    assert ask(f"--checkpoint={tmp_path / 'out'}", f"--image={plain}", *sizes, "What is it?") == DONE
    assert capsys.readouterr().out == out


def test_a_conversation(run, picture, capsys, monkeypatch):
    typed = ["What?", f"/image {picture}", "And this?", "/image none.png", "/what", "", "/reset", "What?", "word " * 400, "/quit", "never"]
    lines = iter(typed)
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    shown = []
    own = chat.Answerer.stream

    def stream(self, conversation, *rest):
        shown.append(conversation)
        return own(self, conversation, *rest)

    monkeypatch.setattr(chat.Answerer, "stream", stream)
    assert ask(f"--checkpoint={run}", "--system=Be brief.") == DONE
    out, err = capsys.readouterr()
    assert list(lines) == ["never"]
    assert [len(each.turns) for each in shown] == [2, 4, 2, 4] and [len(each.images) for each in shown] == [0, 1, 0, 0]
    assert shown[1].turns[0].text == "Be brief." and shown[1].turns[2].text == out.split("\n")[0]
    assert (shown[1].turns[3].text == "<image>\nAnd this?" and shown[0] != shown[2]) or shown[0].turns == shown[2].turns
    assert "none.png does not exist" in err and err.count(chat.HELP) == 2
    assert "it needs 852 of context" in err and "/reset begins a new conversation" in err


def refused(capsys, code: int, *arguments: str) -> str:
    assert ask(*arguments) == code
    return capsys.readouterr().err


def test_what_cannot_be_answered_is_said(run, tmp_path, capsys):
    asked = f"--checkpoint={run}"
    assert "gone.jpg does not exist" in refused(capsys, DATA, asked, "--image=gone.jpg", "What?")
    (tmp_path / "text.jpg").write_text("<html>")
    assert "text.jpg" in refused(capsys, DATA, asked, f"--image={tmp_path / 'text.jpg'}", "What?")
    assert "is no folder" in refused(capsys, CONFIGURATION, f"--checkpoint={tmp_path / 'none'}", "What?")
    assert "holds no tokenizer.json" in refused(capsys, DATA, f"--checkpoint={GOLDEN / 'model_tied'}", "What?")
    assert "--temperature: is -1" in refused(capsys, CONFIGURATION, asked, "--temperature=-1", "What?")
    assert "--top-p: is 2.0, must be above 0 and at most 1" in refused(capsys, CONFIGURATION, asked, "--top-p=2", "What?")
    folder = tmp_path / "other"
    shutil.copytree(GOLDEN / "model_tied", folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    assert "lacks the special tokens" in refused(capsys, DATA, f"--checkpoint={folder}", "What?")
    write_with_special_tokens(GOLDEN / "tokenizer.json", folder)
    assert "has rows for 320: it is not that of these parameters" in refused(capsys, DATA, f"--checkpoint={folder}", "What?")


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "a\n\tb\\x1b]0;owned\\x07\\u202e猫\n"), (False, "a\n\tb\x1b]0;owned\x07\u202e猫\n")]
)
def test_an_answer_does_not_reach_the_terminal_as_commands(monkeypatch, capsys, terminal, shown):
    answerer = types.SimpleNamespace(stream=lambda *_: iter(["a\n\tb\x1b", "]0;owned\x07\u202e猫"]))
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    conversation = chat.Conversation("reference", "")
    chat.answer(answerer, conversation, chat.Flags(checkpoint="a"), "What?", (), ())
    assert capsys.readouterr().out == shown
