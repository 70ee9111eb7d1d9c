"""Listening sockets, and what to tell a person when there can be none."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Final

from xenflow.address import Address, Scheme
from xenflow.errors import ConfigError, UnavailableError

BACKLOG: Final = 256
_MODE: Final = 0o600
_NOT_YET: Final = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)


def listen(address: Address) -> list[socket.socket]:
    """Return non-blocking sockets that listen at `address`, one for each of the host's addresses.

    Raises ConfigError with cause and way out, UnavailableError if the address may come by itself.
    """
    try:
        if address.scheme is Scheme.UNIX:
            return [_listen_unix(Path(address.path))]
        return _listen_tcp(address)
    except OSError as error:
        kind = UnavailableError if isinstance(error, socket.gaierror) or error.errno in _NOT_YET else ConfigError
        raise kind([f"listen at {address}: {_explain(address, error)}"]) from error


def bound_address(listener: socket.socket, wanted: Address) -> Address:
    """Return where the socket listens: `wanted`, with the port that it really got."""
    if wanted.scheme is Scheme.UNIX:
        return wanted
    where = listener.getsockname()
    return Address(wanted.scheme, host=host_text(where), port=where[1])


def host_text(where: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return the host of a socket address; of a link-local one with its zone, which Python leaves out."""
    if len(where) == 4 and where[3]:
        with contextlib.suppress(OSError):  # the interface is gone by now
            return f"{where[0]}%{socket.if_indextoname(where[3])}"
    return where[0]


def stop_listening(listener: socket.socket) -> None:
    """Close the socket, and remove a local socket's file unless another process listens there by now."""
    path = Path(listener.getsockname()) if listener.family == socket.AF_UNIX else None
    listener.close()
    if path is not None and path.is_socket() and not _answers(path):
        path.unlink(missing_ok=True)


def _listen_tcp(address: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as stack:
        listeners = []
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            listeners.append(listener)
        stack.pop_all()
    return listeners


def _listen_unix(path: Path) -> socket.socket:
    if path.is_socket():
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "in use")
        path.unlink()  # left behind by a process that was killed
    elif path.exists():
        raise OSError(errno.EEXIST, "is there and is no socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~_MODE)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # too busy to answer is alive
            return True
    return True


def _explain(address: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"no such host address or network interface ({error.strerror}); see `ip address`"
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE and address.scheme is Scheme.UNIX:
        return "another process listens there; stop it, or set another path"
    if error.errno == errno.EADDRINUSE:
        way = f"`ss -ltnp 'sport = :{address.port}'` shows it: stop it, or set another port"
        return f"the port is in use by another process; {way}"
    if error.errno == errno.EADDRNOTAVAIL:
        return "not an address of this machine (or not yet); see `ip address`"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"not allowed for user {os.geteuid()}; start as root, or set another place"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"the directory does not exist; create it: mkdir -p {Path(address.path).parent}"
    if error.errno == errno.EEXIST:
        return "the file is no socket and is left alone; move it away, or set another path"
    return f"{reason}; set another address"
