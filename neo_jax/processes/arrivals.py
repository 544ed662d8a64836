"""Process 0's side of the startup check: takes connections in parallel and yields those that have sent a report with the right seal.

What connects is not trusted. Each connection has a time limit for its whole report and a size limit, and the number of connections that have
not reported yet is bounded: at the bound the one that has waited longest is dropped, so that silent connections shut nobody out. A connection
that is dropped is named, and changes nothing for the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from neo_jax.processes.messages import MESSAGE_BYTES, NONCE_BYTES, REFUSED, RefusedError, SecretError, new_nonce, sealed, unsealed

REPORT_SECONDS = 10.0  # time limit for a whole report
MOST_WAITING = 64  # connections that have not reported yet
MOST_NAMED = 10  # dropped connections that are named
PART_BYTES = 1 << 16
RETRY_SECONDS = 0.2  # after no connection could be accepted (too many open files)


class Arrival(NamedTuple):
    """A connection that has reported.

    Attributes:
      connection: blocking.
      address: of the other side.
      nonces: for the seal of the answer.
      report: a JSON dictionary of any content.
    """

    connection: socket.socket
    address: str
    nonces: bytes
    report: dict[str, Any]


@dataclasses.dataclass
class _Waiting:
    """A connection that has not reported yet."""

    address: str
    nonce: bytes
    deadline: float
    received: bytearray = dataclasses.field(default_factory=bytearray)


class Arrivals:
    """The connections to a listening socket, until a time.

    Args:
      listener: listens already.
      secret: of the run; empty: none.
      deadline: on the monotonic clock.
      tell: takes a sentence for each dropped connection, up to MOST_NAMED.
    """

    def __init__(self, listener: socket.socket, secret: bytes, deadline: float, tell: Callable[[str], None]):
        self._listener, self._secret, self._deadline, self._tell = listener, secret, deadline, tell
        self._waiting: dict[socket.socket, _Waiting] = {}  # the longest waiting first
        self._selector = selectors.DefaultSelector()
        self._dropped = 0

    def __iter__(self) -> Generator[Arrival]:
        """Yields connections as they report. At the end, or when the iterator is closed, those that have not reported are closed."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while (now := time.monotonic()) < self._deadline:
                for connection, waiting in list(self._waiting.items()):
                    if waiting.deadline <= now:
                        self.drop(connection, waiting.address, f"it sent no report within {REPORT_SECONDS:.0f} s")
                next_limit = min([self._deadline, *(waiting.deadline for waiting in self._waiting.values())])
                for key, _ in self._selector.select(max(next_limit - now, 0.0)):
                    if key.fileobj is self._listener:
                        self._accept()
                        continue
                    waiting_connection = key.fileobj
                    assert isinstance(waiting_connection, socket.socket)
                    if waiting_connection in self._waiting and (arrival := self._read(waiting_connection)):  # else _accept has dropped it
                        yield arrival
        finally:
            for connection in list(self._waiting):
                self._forget(connection)
                connection.close()
            self._selector.close()

    def drop(self, connection: socket.socket, address: str, reason: str) -> None:
        """Closes a connection and names it."""
        self._forget(connection)
        with contextlib.suppress(OSError):
            connection.close()
        self._dropped += 1
        if self._dropped <= MOST_NAMED:
            more = "; further ones are not named" if self._dropped == MOST_NAMED else ""
            self._tell(f"startup check: a connection from {address} was dropped: {reason}{more}")

    def _forget(self, connection: socket.socket) -> None:
        if self._waiting.pop(connection, None) is not None:
            self._selector.unregister(connection)

    def _accept(self) -> None:
        try:
            connection, (address, *_) = self._listener.accept()
        except BlockingIOError:  # it is gone again
            return
        except OSError:
            time.sleep(RETRY_SECONDS)
            return
        connection.setblocking(False)
        waiting = _Waiting(address, new_nonce(), time.monotonic() + REPORT_SECONDS)
        self._waiting[connection] = waiting
        self._selector.register(connection, selectors.EVENT_READ)
        try:
            connection.send(waiting.nonce + b"\n")
        except OSError:
            self.drop(connection, address, "it was closed at once")
        if len(self._waiting) > MOST_WAITING:
            oldest = next(iter(self._waiting))
            self.drop(oldest, self._waiting[oldest].address, f"{MOST_WAITING} others wait, and it has sent no report for longest")

    def _read(self, connection: socket.socket) -> Arrival | None:
        """Reads what has come; returns the connection if its report is whole, drops it if it is none."""
        waiting = self._waiting[connection]
        try:
            part = connection.recv(PART_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        waiting.received += part
        if not part:
            self.drop(connection, waiting.address, "it was closed before its report")
        elif len(waiting.received) > MESSAGE_BYTES:
            self.drop(connection, waiting.address, f"it sent more than {MESSAGE_BYTES >> 20} MiB")
        elif b"\n" in part:
            line = bytes(waiting.received)
            nonces = waiting.nonce + line[:NONCE_BYTES]
            try:
                report = unsealed(self._secret, b"report", nonces, line[NONCE_BYTES:])
            except RefusedError as error:
                if isinstance(error, SecretError):
                    with contextlib.suppress(OSError):
                        connection.send(REFUSED)
                self.drop(connection, waiting.address, str(error))
                return None
            self._forget(connection)
            connection.setblocking(True)
            return Arrival(connection, waiting.address, nonces, report)
        return None


def answer(arrival: Arrival, secret: bytes, message: dict[str, Any], seconds: float) -> None:
    """Sends the answer to a report, and waits until the other side has closed, so that the port is free at once. Errors are passed over."""
    with contextlib.suppress(OSError), arrival.connection as connection:
        connection.settimeout(seconds)
        connection.sendall(sealed(secret, b"answer", arrival.nonces, message))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
