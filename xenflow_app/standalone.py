"""`xenflow-controller`: the core under asyncio alone, without any framework.

SIGTERM and SIGINT end it cleanly; certificates and CRLs are taken up when they change, SIGHUP is not needed for them.
Exit codes: 0 ended as asked, 1 a fault of ours, 2 something that a person has to set right.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from xenflow.address import Scheme
from xenflow.errors import ConfigError, UnavailableError
from xenflow.notify import Notifier
from xenflow.settings import load
from xenflow_app.acceptor import READ_BYTES, SwitchAcceptor, SwitchStream
from xenflow_app.effects import Core
from xenflow_app.host import Host
from xenflow_app.settings import DEFAULT_PATH, AppSettings

_log = logging.getLogger(__name__)

CLOSE_S: Final = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the controller until it is told to stop; exits the process."""
    from xenflow_app.controller import Controller

    sys.exit(run(Controller, arguments))


def run(make_core: Callable[[AppSettings], Core], arguments: Sequence[str] | None = None) -> int:
    """Run a core until the process is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="xenflow-controller", description="XenFlow's controller, stand-alone.")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="log what happens in detail")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        settings = load(options.config, AppSettings)
        return asyncio.run(_serve(make_core(settings), settings))
    except ConfigError as error:
        for problem in error.problems:
            print(f"xenflow-controller: {problem}", file=sys.stderr)
        return 1 if isinstance(error, UnavailableError) else 2


async def _serve(core: Core, settings: AppSettings) -> int:
    notifier = Notifier.from_environment()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = Host(core, stop)
    credentials = settings.tls.credentials() if settings.openflow.scheme is Scheme.SSL else None
    acceptor = SwitchAcceptor(
        settings.openflow, credentials, lambda stream: _serve_switch(host, stream), settings.limits.max_switches
    )
    try:
        await host.listen(settings)
        await acceptor.open()
        host.watch_door(str(settings.openflow), acceptor.refusals.counts)
        _log.info("ready listen=%s openflow=%s socket=%s", settings.listen, acceptor.address, settings.socket)
        notifier.ready(f"listens at {settings.listen} and {acceptor.address}")
        await stop.wait()
        notifier.stopping()
    finally:
        await acceptor.close()
        await host.close()
    _log.info("stopped")
    return 1 if host.failed else 0


async def _serve_switch(host: Host, stream: SwitchStream) -> None:
    """Carry the bytes of one switch until either side ends it. Raises RemoteProtocolError if that was its fault."""
    writer = stream.writer
    link = host.open_switch(stream.node, writer.write, lambda _reason: _close(writer))
    reason = "connection closed"
    try:
        while data := await stream.reader.read(READ_BYTES):
            link.received(data)
    except OSError as error:
        reason = str(error)
    finally:
        link.lost(reason)
    if link.fault is not None:
        raise link.fault


def _close(writer: asyncio.StreamWriter) -> None:
    """Close, with a second for what is still unsent; a switch that does not read is not waited for."""
    writer.close()
    asyncio.get_running_loop().call_later(CLOSE_S, writer.transport.abort)


if __name__ == "__main__":
    main()
