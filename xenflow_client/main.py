"""The program `xenflow-client`: wires observe -> facts -> report, and answers signals.

    kernel == Netlink -> Observer -> Report -> Outbox -> Uplink == TLS == xenflow-server
                             `-> Shown -> standard output (--print)
    Uplink -Announce-> Announcer == raw frames == switch

Exit code 0 after SIGTERM or SIGINT (the session ends with Bye), 2 for what the user can mend, 1 for a defect.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xenflow import __version__
from xenflow.bundle import unpack
from xenflow.errors import ConfigError
from xenflow.notify import Notifier
from xenflow.replica import Outbox
from xenflow.settings import load
from xenflow.wire import Role
from xenflow_client.announce import Announcer
from xenflow_client.neighbors import Upkeep
from xenflow_client.netlink import Netlink
from xenflow_client.observer import Observer
from xenflow_client.report import Report
from xenflow_client.resync import Resync
from xenflow_client.settings import ClientSettings
from xenflow_client.show import Shown
from xenflow_client.uplink import Uplink

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path("/etc/xenflow/client.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options = _parse(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if options.print and not options.verbose:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        if options.bundle:
            for path in unpack(options.bundle, options.config.parent, force=options.force):
                print(path)
        elif options.print:
            asyncio.run(show(options.json, options.follow))
        else:
            asyncio.run(serve(options.config))
    except ConfigError as error:
        for problem in error.problems:
            print(f"xenflow-client: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="xenflow-client", description="Report this router's routes and neighbors.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"[{DEFAULT_CONFIG}]")
    parser.add_argument("--import", dest="bundle", type=Path, metavar="FILE", help="unpack a bundle beside --config")
    parser.add_argument("--force", action="store_true", help="with --import: replace files that are there")
    parser.add_argument("--print", action="store_true", help="print what would be reported; needs no server")
    parser.add_argument("--json", action="store_true", help="with --print: one JSON object a line")
    parser.add_argument("--follow", action="store_true", help="with --print: go on with what changes")
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"xenflow-client {__version__}")
    options = parser.parse_args(arguments)
    if (options.json or options.follow) and not options.print:
        parser.error("--json and --follow go with --print")
    if options.force and not options.bundle:
        parser.error("--force goes with --import")
    return options


async def show(as_json: bool, follow: bool) -> None:
    """Print the facts once they are known; with `follow` also their changes, until a signal comes."""
    stopped = _stop_signals()
    printed = False

    def write(line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # the reader (head, less) has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            stopped.set()

    shown = Shown(write, as_json)

    def changed() -> None:
        nonlocal printed
        if observer.ready and not printed:
            printed = True
            shown.show(follow)
            if not follow:
                stopped.set()

    observer = Observer(shown, Upkeep(refresh_s=0, resolve=False), Resync())
    defect = _defect()
    netlink = Netlink(observer, changed)
    stopping = asyncio.create_task(stopped.wait())
    try:
        await _first_of(stopping, defect)
    finally:
        stopping.cancel()
        netlink.close()


async def serve(config: Path) -> None:
    """Observe and report until a signal ends it."""
    settings = _load(config)
    notifier = Notifier.from_environment()
    stopped = _stop_signals()
    report = Report(Outbox(settings.router))
    report.set_cap(settings.max_routes)
    upkeep, resync = Upkeep(settings.refresh_s), Resync(settings.resync_s)
    observer = Observer(report, upkeep, resync)
    uplink = Uplink(settings, report, Announcer(observer.kernel))
    known = asyncio.Event()

    def changed() -> None:
        if observer.ready and not known.is_set():
            known.set()
            notifier.ready(f"reports router {settings.router} to {settings.server}")
        report.changed()

    defect = _defect()
    netlink = Netlink(observer, changed)

    def apply(new: ClientSettings) -> None:
        uplink.apply(new)
        upkeep.refresh_s, resync.interval_s = new.refresh_s, new.resync_s

    tasks = [asyncio.create_task(_report_when(known, uplink)), asyncio.create_task(_reload(config, apply, uplink))]
    stopping = asyncio.create_task(stopped.wait())
    try:
        await _first_of(*tasks, stopping, defect)
        notifier.stopping()
        await uplink.close("the client stops")
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        netlink.close()
    logger.info("stopped")


def _defect() -> asyncio.Future[None]:
    """Return a future that fails with what a callback of the event loop raises: a program with a defect ends."""
    loop = asyncio.get_running_loop()
    defect: asyncio.Future[None] = loop.create_future()

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if "handle" not in context or not isinstance(error, Exception):
            loop.default_exception_handler(context)
        elif not defect.done():
            defect.set_exception(error)

    loop.set_exception_handler(failed)
    return defect


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of `futures` is done; raises what it raised."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _load(config: Path) -> ClientSettings:
    """Return settings that can be used: the files are there, and the certificate is this router's."""
    settings = load(config, ClientSettings)
    credentials = settings.tls.credentials()
    credentials.client_context()
    identity = credentials.identity()
    if (identity.role, identity.name) != (Role.ROUTER, settings.router):
        raise ConfigError(
            [f"{settings.tls.certificate}: belongs to {identity}, not to router/{settings.router}; issue one for it"]
        )
    return settings


def _stop_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _report_when(known: asyncio.Event, uplink: Uplink) -> None:
    """Report once the tables are known: a snapshot before that would withdraw what is merely not read yet."""
    await known.wait()
    await uplink.run()


async def _reload(config: Path, apply: Callable[[ClientSettings], None], uplink: Uplink) -> None:
    """Read the settings again at each SIGHUP; settings that are wrong change nothing."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        try:
            apply(_load(config))
        except ConfigError as error:
            for problem in error.problems:
                logger.error("settings not reloaded: %s", problem)
            continue
        logger.info("settings reloaded")
        await uplink.close("the client reloads its settings")


if __name__ == "__main__":
    sys.exit(main())
