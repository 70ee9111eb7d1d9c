"""What the tools' command lines share: arguments with addresses, JSON at the end, one clear line for an error."""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import string
import sys
from collections.abc import Callable, Sequence
from typing import Any

_MAX_ENDPOINTS = 4096


def endpoints(text: str) -> list[tuple[str, int]]:
    """Parse ``10.0.0.1:5000``, ``[fd00::1]:5000`` or a range ``10.0.0.1-10.0.0.9:5000`` (IPv6 in brackets too).

    Raises argparse.ArgumentTypeError with what is wrong.
    """
    hosts, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: ADDRESS:PORT expected, with a port from 1 to 65535")
    first, _, last = hosts.replace("[", "").replace("]", "").partition("-")
    try:
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last or first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    count = int(high) - int(low) + 1
    if low.version != high.version or not 0 < count <= _MAX_ENDPOINTS:
        raise argparse.ArgumentTypeError(f"{text!r}: a range of 1 to {_MAX_ENDPOINTS} addresses expected")
    if not last:
        return [(first, int(port))]
    return [(str(low + i), int(port)) for i in range(count)]


def parse_mac(text: str) -> bytes:
    """Parse a MAC address such as ``02:00:00:00:00:01``. Raises argparse.ArgumentTypeError."""
    parts = text.split(":")
    if len(parts) != 6 or not all(len(part) == 2 and all(c in string.hexdigits for c in part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: not a MAC address such as 02:00:00:00:00:01")
    return bytes.fromhex("".join(parts))


def main(run: Callable[[Sequence[str]], dict[str, Any]]) -> None:
    """Run a tool with the process's arguments, print its report; exit code 2 and one line for what cannot be done."""
    try:
        report = run(sys.argv[1:])
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the interpreter restores the default at its end, before it is gone
    print(json.dumps(report))
