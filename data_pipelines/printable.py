"""Makes foreign text (names, captions, answers, messages of others) safe to print: it is shown as text and never obeyed by a terminal."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""Returns the text with each character that is not printable replaced by its escape, such as \x1b or \u202e.

    These are control characters, which may move the cursor, set the title or end a line of a log; characters that reverse the direction of
    writing; and half surrogate pairs, which cannot be encoded. Printable text is returned as it is, in any script.

    Args:
      keep: characters that stay, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escape(each) for each in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
