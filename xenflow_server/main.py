"""`xenflow-server`: command line, signals and exit codes of the node's daemon.

Exit codes: 0 after SIGTERM or SIGINT, 2 for settings, definitions or files that cannot be used, 1 for anything else.
An address to listen at that is not there yet is waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from xenflow import __version__
from xenflow.channel import Channel, Listener, connect, serve
from xenflow.errors import ConfigError
from xenflow.identity import Identity
from xenflow.notify import Notifier
from xenflow.settings import load
from xenflow.tls import Credentials
from xenflow.wire import VERSION, Hello, Role
from xenflow_server.book import Book
from xenflow_server.gate import Gate
from xenflow_server.granting import ResourceControl
from xenflow_server.hypervisor import Watcher
from xenflow_server.moving import plan_for
from xenflow_server.node import NodeScope
from xenflow_server.ovsdb import Monitor
from xenflow_server.resourcing import InThread
from xenflow_server.server import Server
from xenflow_server.settings import DEFAULT_PATH, Settings
from xenflow_server.xl import XlWatcher
from xenflow_server.xl_machine import XlMachines

log = logging.getLogger("xenflow_server")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `xenflow-server`; ends the process."""
    parser = argparse.ArgumentParser(prog="xenflow-server", description="XenFlow's daemon on a node (Dom0)")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=f"default: {DEFAULT_PATH}")
    parser.add_argument("--check", action="store_true", help="check settings and definitions, and exit")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        settings, book, credentials = check(options.config)
        if options.check:
            show(options.config, settings, book)
            sys.exit(0)
        for problem in book.problems:
            log.error("definition handed over and left out: %s", problem)
        asyncio.run(run(settings, book, credentials))
    except ConfigError as error:
        for problem in error.problems:
            print(f"xenflow-server: {problem}", file=sys.stderr)
        sys.exit(2)


def show(config: Path, settings: Settings, book: Book) -> None:
    """Print what `check` found. Raises ConfigError for what a start can do without, but should not have to."""
    check_database(settings.ovs.database)
    watcher_of(settings.hypervisor.uri)
    if book.problems:
        raise ConfigError(book.problems)
    defined = book.definitions
    print(f"{config}: {len(defined.machines)} machines in {len(defined.networks)} networks: good")
    for line in book.lines():
        print(line)


def check(config: Path) -> tuple[Settings, Book, Credentials]:
    """Return what a start needs. Raises ConfigError with all problems of settings, definitions and certificate."""
    settings = load(config, Settings)
    problems: list[str] = []
    book = Book(settings.definitions, settings.state)
    try:
        book.start()
    except ConfigError as error:
        problems.extend(error.problems)
    credentials = settings.tls.credentials()
    try:
        wanted = Identity(Role.NODE, settings.node)
        if credentials.identity() != wanted:
            problems.append(f"{credentials.certificate}: is that of {credentials.identity()}, not of {wanted}")
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return settings, book, credentials


def watcher_of(uri: str) -> Watcher | None:
    """Return what asks the hypervisor, None if only the database is asked.

    Raises ConfigError if libvirt's module is needed and missing.
    """
    if not uri:
        return None
    if uri == "xl:":
        return XlWatcher()
    try:
        from xenflow_server.libvirt_adapter import LibvirtWatcher
    except ImportError as error:
        way_out = "install python3-libvirt, or libvirt-python with pip (xenflow[libvirt])"
        raise ConfigError(
            [f"hypervisor.uri {uri}: Python's libvirt module is not there ({error}): {way_out}"]
        ) from error
    return LibvirtWatcher(uri)


def control_of(uri: str) -> ResourceControl | None:
    """Return what gives machines processor and memory, None if no hypervisor is asked. Raises as `watcher_of`."""
    if watcher_of(uri) is None:
        return None
    if uri == "xl:":
        return InThread(XlMachines().find)
    from xenflow_server.libvirt_machine import LibvirtMachines

    return InThread(LibvirtMachines(uri).find)


def check_database(database: str) -> None:
    """Raises ConfigError if Open vSwitch's database is on this machine, and nobody answers there.

    Only `--check` asks: a server that runs waits for it, since either may start first.
    """
    scheme, _, path = database.partition(":")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(path)
        except OSError as error:
            why = error.strerror or str(error)
            way_out = "is Open vSwitch running (systemctl status openvswitch-switch), and ovs.database right?"
            raise ConfigError([f"{database}: cannot connect ({why}); {way_out}"]) from error


async def run(settings: Settings, book: Book, credentials: Credentials) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if the socket can never be had."""
    notifier = Notifier.from_environment()
    hello = Hello(VERSION, Role.NODE, settings.node, epoch=time.time_ns() // 1_000_000)

    async def connect_app() -> Channel:
        return await connect(settings.app, credentials, hello, expect_controller)

    async def connect_qos() -> Channel:
        return await connect(settings.qos, None, Hello(VERSION, Role.NODE, settings.node), lambda _: None)

    limits, asks = settings.limits, bool(settings.hypervisor.uri)
    scope = NodeScope(book.definitions, limits.max_routes, max_routers=limits.max_routers, asks=asks)
    database = Monitor(settings.ovs.database, settings.ovs.bridge)
    watcher, most = watcher_of(settings.hypervisor.uri), limits.max_routers
    move = plan_for(settings.hypervisor, scope.machine_of)
    asked = watcher, control_of(settings.hypervisor.uri)
    server = Server(settings.node, scope, database, connect_app, settings.ovs, book, move, connect_qos, most, *asked)

    async def open_gate() -> Listener:
        listener = await serve(settings.listen, credentials, server.clients.welcome, server.clients.serve)
        server.refused.doors[str(settings.listen)] = listener.refusals
        return listener

    def tell(problem: str) -> None:
        notifier.ready(f"node {settings.node}: " + (problem or f"listens at {settings.listen}"))
        server.gate(problem)

    gate = Gate(settings.listen, open_gate, tell)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: reload(server, book))
    log.info("node %s from=start to=serving listen=%s app=%s", settings.node, settings.listen, settings.app)
    await _until(stop, server, gate)
    notifier.stopping()
    log.info("node %s from=serving to=stopped", settings.node)


def reload(server: Server, book: Book) -> None:
    """Take the definitions as the files have them now; if they have a problem everything stays as it was."""
    try:
        fresh = book.reload()
    except ConfigError as error:
        for problem in error.problems:
            log.error("reload refused, nothing has changed: %s", problem)
        return
    server.redefine(fresh)
    log.info("definitions reloaded: %d machines in %d networks", len(fresh.machines), len(fresh.networks))


def expect_controller(peer: Identity) -> str | None:
    """Say why a peer is not the app, None if it is."""
    return None if peer.role is Role.CONTROLLER else f"{peer} is no controller"


async def _until(stop: asyncio.Event, server: Server, gate: Gate) -> None:
    """Serve until `stop`, then drain. What stops the server by itself is raised."""
    serving = asyncio.create_task(server.run())
    accepting = asyncio.create_task(gate.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        await server.drain()
    accepting.cancel()
    await asyncio.wait({accepting})
    await gate.close("the server stops")
    for task in (serving, stopping):
        task.cancel()
    for result in await asyncio.gather(serving, accepting, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


if __name__ == "__main__":
    main()
