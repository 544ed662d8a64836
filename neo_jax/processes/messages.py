"""Messages between processes at the startup check: one line with a seal and a JSON dictionary.

The seal is an HMAC-SHA256 over the dictionary and both sides' nonces with the secret of the run, so the secret itself is never sent, and a
message that was overheard is worth nothing in another conversation. Without a secret the key is empty, and anyone can make a seal. The seal
is checked before the JSON is read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any

MESSAGE_BYTES = 4 << 20  # size limit of a line
MOST_LEVELS = 32  # depth of nesting; a configuration has 6
NONCE_BYTES = 32
SEAL_BYTES = 64
REFUSED = b"refused\n"  # process 0's answer to a seal that is not made with its secret


class RefusedError(ValueError):
    """A message that is not read; says why."""


class SecretError(RefusedError):
    """A message whose seal is not made with the secret of this process."""


def new_nonce() -> bytes:
    return secrets.token_hex(NONCE_BYTES // 2).encode()


def sealed(secret: bytes, purpose: bytes, nonces: bytes, message: Mapping[str, Any]) -> bytes:
    """Returns a message as a line.

    Args:
      purpose: what the message is, so that one kind cannot be sent back as another.
      nonces: those of both sides.
    """
    body = json.dumps(message).encode()  # escapes all control characters: no line end within
    return _seal(secret, purpose, nonces, body) + body + b"\n"


def unsealed(secret: bytes, purpose: bytes, nonces: bytes, line: bytes) -> dict[str, Any]:
    """Returns the message in a line. Raises SecretError for a wrong seal, RefusedError for what is not a dictionary or nested too deeply."""
    seal, body = line[:SEAL_BYTES], line[SEAL_BYTES:-1]
    if not hmac.compare_digest(seal, _seal(secret, purpose, nonces, body)):
        raise SecretError("its secret is missing or wrong")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("it sent something other than JSON") from None
    if not isinstance(message, dict):
        raise RefusedError("it sent something other than a report")
    if _is_deep(message):
        raise RefusedError(f"its message has more than {MOST_LEVELS} levels of nesting")
    return message


def _seal(secret: bytes, purpose: bytes, nonces: bytes, body: bytes) -> bytes:
    return hmac.new(secret, purpose + nonces + body, hashlib.sha256).hexdigest().encode()


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True
