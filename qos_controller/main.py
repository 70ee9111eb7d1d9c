"""`qos-controller`: command line, signals and exit codes of the daemon that shapes a node's links.

Exit codes: 0 after SIGTERM or SIGINT, 2 for settings or files that cannot be used, 1 for anything else. What is in the
kernel stays there when the daemon ends: promises do not depend on its life.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from qos_controller.config import DEFAULT_PATH, Settings
from qos_controller.controller import Controller
from qos_controller.database import Database
from qos_controller.door import Door
from qos_controller.htb import Kernel
from qos_controller.store import Store
from xenflow import __version__
from xenflow.channel import Listener, serve
from xenflow.errors import ConfigError
from xenflow.notify import Notifier
from xenflow.settings import load
from xenflow.wire import Role

log = logging.getLogger("qos_controller")
PEERS: Final = frozenset({Role.NODE, Role.OPERATOR})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `qos-controller`; ends the process."""
    parser = argparse.ArgumentParser(prog="qos-controller", description="XenFlow's daemon for bandwidth on a node")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=f"default: {DEFAULT_PATH}")
    parser.add_argument("--check", action="store_true", help="check the settings, and exit")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        settings = load(options.config, Settings)
        if options.check:
            print(f"{options.config}: policy {settings.policy}, every {settings.t_med_s:g} s: good")
            sys.exit(0)
        asyncio.run(run(settings, options.config))
    except ConfigError as error:
        for problem in error.problems:
            print(f"qos-controller: {problem}", file=sys.stderr)
        sys.exit(2)


def reload(controller: Controller, config: Path) -> None:
    """Share by what the file says now; if it has a problem everything stays. Socket, state and [ovs] need a restart."""
    try:
        fresh = load(config, Settings)
    except ConfigError as error:
        for problem in error.problems:
            log.error("reload refused, nothing has changed: %s", problem)
        return
    controller.share(fresh)
    log.info("settings reloaded policy=%s t_med_s=%g k_med=%d", fresh.policy, fresh.t_med_s, fresh.k_med)


async def run(settings: Settings, config: Path) -> None:
    """Shape until SIGTERM or SIGINT. Raises ConfigError if the socket or the state cannot be had."""
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(settings.socket.path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{error.filename}: cannot be made: {error.strerror}"]) from error
    notifier = Notifier.from_environment()
    kernel = Kernel()
    await kernel.open()
    database = Database(settings.ovs.database, settings.ovs.bridge)
    controller = Controller(kernel, database, settings, time.monotonic)
    door = Door(controller, Store(settings.state), time.monotonic)
    door.start()
    listener = await serve(settings.socket, None, door.welcome, door.serve, local=PEERS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: reload(controller, config))
    log.info("qos from=start to=serving socket=%s policy=%s t_med_s=%g", *_brief(settings))
    notifier.ready(f"shapes with policy {settings.policy}")
    try:
        await _until(stop, controller, listener)
        notifier.stopping()
    finally:
        database.close()
        await kernel.close()
    log.info("qos from=serving to=stopped")


def _brief(settings: Settings) -> tuple[object, ...]:
    return settings.socket, settings.policy, settings.t_med_s


async def _until(stop: asyncio.Event, controller: Controller, listener: Listener) -> None:
    """Work until `stop`. What ends the controller by itself is raised."""
    working = asyncio.create_task(controller.run())
    accepting = asyncio.create_task(listener.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await listener.close("qos-controller stops")
    for task in (working, accepting, stopping):
        task.cancel()
    for result in await asyncio.gather(working, accepting, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


if __name__ == "__main__":
    main()
