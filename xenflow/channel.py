"""Connections between XenFlow's processes over TLS or a local socket; the only place that joins sessions and asyncio.

    connect(address, credentials, hello, expect) -> Channel        client, server, operator
    serve(address, credentials, welcome, on_channel) -> Listener   server, app

Rules: nobody is talked to before both certificates have been checked; what the other side can make us spend is
bounded; changed certificates, authorities and CRLs count without a restart, for new connections and for live ones.
Needs the standard library and msgspec; only a listener imports pyOpenSSL.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from xenflow.address import Address, Scheme
from xenflow.connection import READ_BYTES, Channel, tls_reason
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.limits import Limits
from xenflow.listener import Listener, ListenerLimits, serve
from xenflow.session import Session
from xenflow.tls import Credentials, peer_identity
from xenflow.wire import Hello

__all__ = ["Address", "Channel", "Limits", "Listener", "ListenerLimits", "connect", "serve"]

_log = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
WATCH_S: Final = 1.0
"""How often the files of the credentials are looked at."""


async def connect(
    address: Address,
    credentials: Credentials | None,
    hello: Hello,
    expect: Callable[[Identity], str | None],
    *,
    timeout_s: float = CONNECT_S,
    limits: Limits = Limits(),  # noqa: B008 - immutable
) -> Channel:
    """Return an open channel to `address`; `expect` says why an identity is not the one wanted (None: it is).

    The channel closes by itself when the files of the credentials have changed: connect again, with what they say now.
    Raises ConfigError (our credentials), RemoteProtocolError (either side refuses the other), or OSError, TimeoutError
    among them (cannot be reached).
    """
    own = _own(address, credentials)
    async with asyncio.timeout(timeout_s):
        reader, writer = await _open_stream(address, own, timeout_s)
        try:
            peer = peer_identity(writer.get_extra_info("ssl_object")) if own is not None else None
            if peer is not None:
                _check(peer, expect)
        except RemoteProtocolError:
            writer.transport.abort()
            raise
        now = asyncio.get_running_loop().time()
        channel = Channel(reader, writer, Session(hello=hello, welcome=None, peer=peer, now=now, limits=limits))
        try:
            await channel.open(peer)
            _check(channel.peer, expect)
        except RemoteProtocolError as fault:
            channel.fail(fault)
            await channel.close(fault.reason)
            raise
    if own is not None:
        channel.start(_close_when_changed(channel, own))
    return channel


def _own(address: Address, credentials: Credentials | None) -> Credentials | None:
    """Return credentials that remember for this connection alone which files they have seen."""
    if address.scheme is Scheme.UNIX:
        return None
    if address.scheme is Scheme.TCP or credentials is None:
        raise ConfigError([f"{address}: plain TCP is not for this; use ssl: with credentials, or unix:"])
    return Credentials(credentials.ca, credentials.certificate, credentials.key, credentials.crl)


async def _open_stream(
    address: Address, credentials: Credentials | None, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if credentials is None:
        return await asyncio.open_unix_connection(address.path, limit=READ_BYTES)
    try:
        return await asyncio.open_connection(
            address.host,
            address.port,
            limit=READ_BYTES,
            ssl=credentials.client_context(),
            server_hostname="xenflow",  # not looked at: identities are URIs
            ssl_handshake_timeout=timeout_s,
            ssl_shutdown_timeout=1.0,
        )
    except ssl.SSLError as error:
        fault = Fault.CERTIFICATE if isinstance(error, ssl.SSLCertVerificationError) else Fault.TLS
        raise RemoteProtocolError(f"{address}: no TLS connection: {tls_reason(error)}", fault) from error


def _check(peer: Identity, expect: Callable[[Identity], str | None]) -> None:
    if (problem := expect(peer)) is not None:
        raise RemoteProtocolError(f"{peer} is not whom we want: {problem}", Fault.IDENTITY)


async def _close_when_changed(channel: Channel, credentials: Credentials) -> None:
    said = ""
    while True:
        await asyncio.sleep(WATCH_S)
        if not credentials.changed():
            continue
        try:
            credentials.client_context()
        except ConfigError as error:  # half of the files replaced, or a mistake: the connection at hand stays
            if str(error) != said:
                said = str(error)
                _log.warning("credentials changed and not usable, connection kept peer=%s why=%s", channel.peer, said)
            continue
        await channel.close("credentials changed: connecting again")
