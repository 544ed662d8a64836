"""The address on which process 0 listens: that of the interface to which the coordinator's name leads, or the one asked for by --bind."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable

RETRY_SECONDS = 1.0  # between attempts: in Kubernetes a new pod's name is known only after a while


def own_address(host: str, seconds: float, tell: Callable[[str], None]) -> str:
    """Returns the address of this machine to which a name leads. Waits for a name that is not known yet.

    Args:
      host: a name or an address.
      seconds: how long to wait.
      tell: takes sentences for the user.

    Raises:
      OSError: it leads to no address of this machine.
    """
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
            addresses = [str(each[4][0]) for each in sorted(found, key=lambda each: each[0] != socket.AF_INET)]
            problem = f"{host} leads to {', '.join(dict.fromkeys(addresses))}, no address of this machine"
        except OSError as error:  # the name is not known
            addresses, problem = [], f"{host}: {error.strerror or error}"
        for address in addresses:
            if _is_own(address):
                if is_loopback(address) and not is_loopback(host):
                    tell(
                        f"{host} leads to {address} on this machine: process 0 listens there alone. If processes on other machines do not reach "
                        "it, name another address with --coordinator, or --bind=0.0.0.0 for all interfaces"
                    )
                return address
        if time.monotonic() + RETRY_SECONDS > deadline:
            raise OSError(problem)
        if not told:
            tell(f"process 0 cannot listen yet ({problem}): trying for {seconds:.0f} s; --bind=ADDRESS names an address of this machine")
            told = True
        time.sleep(RETRY_SECONDS)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's loopback interface by its spelling."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def with_port(address: str, port: int) -> str:
    """Returns ADDRESS:PORT, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _is_own(address: str) -> bool:
    try:
        with socket.create_server((address, 0), family=family_of(address)):
            return True
    except OSError:
        return False


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
