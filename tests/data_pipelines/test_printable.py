"""Foreign text is shown and never obeyed."""

import pytest

from data_pipelines.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zwölf Katzen, 十二只猫 \U0001f408", "Zwölf Katzen, 十二只猫 \U0001f408"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\tc", "a\\x0d\\x0ab\\x09c"),
        ("\x9b31m\x7f\0", "\\x9b31m\\x7f\\x00"),
        ("\u202egpj.exe\u2028", "\\u202egpj.exe\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text, shown):
    assert printable(text) == shown


def test_what_is_kept():
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"
