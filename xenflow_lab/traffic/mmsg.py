"""sendmmsg(2) and recvmmsg(2): many packets for one system call, which the socket module does not offer.

The arrays of `struct mmsghdr` are plain bytearrays that are packed and unpacked with `struct`; the layout is that of
64-bit Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

BATCH = 64
_NAME_BYTES = 32
_MAPPED = bytes(10) + b"\xff\xff"
_CONTROL_BYTES = 96
# msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags, msg_len
_HEADER = struct.Struct("@QI4xQQQQi4xI4x")
_NAME = struct.Struct("@QI")
_IOVEC = struct.Struct("@QQ")
_libc = ctypes.CDLL(None, use_errno=True)


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _transfer(function: str, fd: int, headers: int, count: int) -> int:
    """Call the function without blocking; return how many packets it moved (0: it would block). Raises OSError."""
    moved: int = getattr(_libc, function)(fd, ctypes.c_void_p(headers), count, socket.MSG_DONTWAIT, None)
    if moved >= 0:
        return moved
    code = ctypes.get_errno()
    if code in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
        return 0
    raise OSError(code, os.strerror(code))


def sockaddr(address: str, port: int) -> bytes:
    """Return the `struct sockaddr_in` or `sockaddr_in6` of a numeric address (``fe80::1%eth0`` allowed)."""
    family, _, _, _, name = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_pton(family, address) + bytes(8)
    scope = int(name[3]) if len(name) == 4 else 0
    packed = socket.inet_pton(family, str(name[0]).partition("%")[0])
    return struct.pack("=H", family) + struct.pack("!HI", port, 0) + packed + struct.pack("=I", scope)


def sockaddr_text(name: bytes) -> str:
    """Return ``ADDRESS:PORT`` (IPv6 in brackets, mapped IPv4 as IPv4) of a `struct sockaddr_in` or `sockaddr_in6`."""
    (family,) = struct.unpack_from("=H", name)
    (port,) = struct.unpack_from("!H", name, 2)
    if family == socket.AF_INET:
        return f"{socket.inet_ntop(family, name[4:8])}:{port}"
    if name[8:20] == _MAPPED:
        return f"{socket.inet_ntop(socket.AF_INET, name[20:24])}:{port}"
    return f"[{socket.inet_ntop(family, name[8:24])}]:{port}"


class Outgoing:
    """Up to BATCH packets on their way out, all of one size; `fill` them, then `send` as many as were filled."""

    def __init__(self, template: bytes) -> None:
        self.size_bytes = len(template)
        self.payloads = bytearray(template * BATCH)
        self._names: dict[bytes, tuple[int, int]] = {}
        self._kept: list[bytearray] = []
        iovecs = bytearray(_IOVEC.size * BATCH)
        self._headers = bytearray(_HEADER.size * BATCH)
        base, vectors = _address(self.payloads), _address(iovecs)
        for slot in range(BATCH):
            _IOVEC.pack_into(iovecs, slot * _IOVEC.size, base + slot * self.size_bytes, self.size_bytes)
            header = (0, 0, vectors + slot * _IOVEC.size, 1, 0, 0, 0, 0)
            _HEADER.pack_into(self._headers, slot * _HEADER.size, *header)
        self._kept.append(iovecs)
        self._base = _address(self._headers)

    def fill(self, slot: int, name: bytes) -> int:
        """Address the packet in `slot`; return where its payload begins in `payloads`."""
        place = self._names.get(name)
        if place is None:
            kept = bytearray(name)
            self._kept.append(kept)
            place = self._names[name] = (_address(kept), len(name))
        _NAME.pack_into(self._headers, slot * _HEADER.size, *place)
        return slot * self.size_bytes

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """Send `count` packets from slot `first` on; return how many the kernel took. Raises OSError."""
        return _transfer("sendmmsg", sock.fileno(), self._base + first * _HEADER.size, count)


class Incoming:
    """Up to BATCH received packets with their source and control messages."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._payloads = bytearray(size_bytes * BATCH)
        self._names = bytearray(_NAME_BYTES * BATCH)
        self._controls = bytearray(_CONTROL_BYTES * BATCH)
        self._iovecs = bytearray(_IOVEC.size * BATCH)
        self._headers = bytearray(_HEADER.size * BATCH)
        base, vectors = _address(self._payloads), _address(self._iovecs)
        names, controls = _address(self._names), _address(self._controls)
        for slot in range(BATCH):
            _IOVEC.pack_into(self._iovecs, slot * _IOVEC.size, base + slot * size_bytes, size_bytes)
            vector, control = vectors + slot * _IOVEC.size, controls + slot * _CONTROL_BYTES
            name = names + slot * _NAME_BYTES
            header = (name, _NAME_BYTES, vector, 1, control, _CONTROL_BYTES, 0, 0)
            _HEADER.pack_into(self._headers, slot * _HEADER.size, *header)
        self._pristine = bytes(self._headers)
        self._base = _address(self._headers)

    def receive(self, sock: socket.socket) -> Iterator[tuple[memoryview, bytes, memoryview]]:
        """Yield payload, source (struct sockaddr) and control messages of what has arrived, up to BATCH packets.

        The memory is reused by the next call. Raises OSError.
        """
        count = _transfer("recvmmsg", sock.fileno(), self._base, BATCH)
        used = memoryview(self._headers)[: count * _HEADER.size]
        lengths = [(header[1], header[5], header[7]) for header in _HEADER.iter_unpack(used)]
        used[:] = self._pristine[: len(used)]
        payloads, controls = memoryview(self._payloads), memoryview(self._controls)
        for slot, (name_bytes, control_bytes, length) in enumerate(lengths):
            payload = payloads[slot * self.size_bytes :][:length]
            name = bytes(self._names[slot * _NAME_BYTES :][:name_bytes])
            yield payload, name, controls[slot * _CONTROL_BYTES :][:control_bytes]


def control_messages(control: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield level, type and data of each control message (cmsg(3))."""
    at = 0
    while at + 16 <= len(control):
        length, level, kind = struct.unpack_from("@Qii", control, at)
        if length < 16:
            return
        yield level, kind, control[at + 16 : at + length]
        at += (length + 7) & ~7
