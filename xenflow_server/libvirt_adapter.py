"""Adapter: libvirt -> `domains`, and a live migration by libvirt. The only file that imports libvirt.

    libvirtd == keepalive ==> thread "libvirt" -- Saying --> asyncio's thread

Rules: it decides nothing (`lifecycle` does). libvirt's calls wait for libvirtd, so all of them are made in one thread
of their own, which runs libvirt's event loop too; the server's loop only gets values. A libvirtd that goes away or does
not answer (5 s, three times) is Lost, and tried again after 0.2 to 2 s; then comes a Snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow_server.domains import Ended, Lost, Phase, Saying, Seen, Snapshot
from xenflow_server.lifecycle import SHUTOFF_MIGRATED, Gone, domain_of, meaning, percent_done, phase_of, work_done

log = logging.getLogger(__name__)
KEEPALIVE_S = 5
KEEPALIVE_COUNT = 3
BACKOFF_S = (0.2, 2.0)
STOP_S = 1.0
_OPEN_LOCK = threading.Lock()
_registered = False


def prepare() -> None:
    """Choose libvirt's own event loop, once in a process, and keep it from printing errors that are raised as well."""
    global _registered
    with _OPEN_LOCK:
        if not _registered:
            libvirt.virEventRegisterDefaultImpl()
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            _registered = True


def serve_events() -> None:
    """Run libvirt's event loop in a thread of its own, for as long as the process lives: keepalive needs it."""

    def serve() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    timer = libvirt.virEventAddTimeout(1000, lambda *_: None, None)
    log.debug("libvirt's event loop runs, timer %d", timer)
    threading.Thread(target=serve, name="libvirt", daemon=True).start()


class LibvirtWatcher:
    """Follows all machines of one libvirtd."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stopped = threading.Event()
        self._closed = False

    async def run(self, on_saying: Callable[[Saying], None]) -> None:
        """Call `on_saying` with what libvirt says, for ever."""
        prepare()
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Saying] = asyncio.Queue()

        def post(saying: Saying) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(queue.put_nowait, saying)

        wake_read, wake_write = os.pipe()
        thread = threading.Thread(target=self._follow, args=(post, wake_read), name="libvirt", daemon=True)
        thread.start()
        try:
            while True:
                on_saying(await queue.get())
        finally:
            self._stopped.set()
            os.close(wake_write)
            thread.join(STOP_S)

    def _follow(self, post: Callable[[Saying], None], wake: int) -> None:
        """The thread: connect, follow, and again."""
        watch = libvirt.virEventAddHandle(wake, libvirt.VIR_EVENT_HANDLE_HANGUP, lambda *_: None, None)
        pause_s = BACKOFF_S[0]
        try:
            while not self._stopped.is_set():
                try:
                    with _connection(self._uri) as connection:
                        self._watch(connection, post)
                        pause_s = BACKOFF_S[0]
                        while not self._closed and not self._stopped.is_set():
                            libvirt.virEventRunDefaultImpl()
                    post(Lost(f"{self._uri}: libvirt has closed the connection"))
                except (libvirt.libvirtError, RemoteProtocolError) as error:
                    post(Lost(f"{self._uri}: {error}"))
                self._stopped.wait(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S[1])
        finally:
            libvirt.virEventRemoveHandle(watch)
            os.close(wake)

    def _watch(self, connection: Any, post: Callable[[Saying], None]) -> None:
        """Ask for events first, then for all that is there: nothing falls between."""
        self._closed = False

        def closed(*_: object) -> None:
            self._closed = True

        def lifecycle(_connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
            said = meaning(event, detail)
            if isinstance(said, Gone):
                post(Ended(domain.UUIDString().lower(), moved=said is Gone.MOVED))
            elif said is not None:
                _see(domain, said, post)

        def changed(_connection: Any, domain: Any, *_: object) -> None:
            _see(domain, None, post)

        connection.registerCloseCallback(closed, None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        for event in (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED):
            with contextlib.suppress(libvirt.libvirtError):  # a driver may not have it
                connection.domainEventRegisterAny(None, event, changed, None)
        post(snapshot(connection))


def snapshot(connection: Any) -> Snapshot:
    """Return all machines of a libvirtd. Raises libvirtError."""
    domains, moved = [], set()
    for domain in connection.listAllDomains():
        if domain.isActive():
            domains.append(domain_of(domain.XMLDesc(), _phase(domain)))
        elif domain.state()[1] == SHUTOFF_MIGRATED:
            moved.add(domain.UUIDString().lower())
    return Snapshot(tuple(domains), frozenset(moved))


@contextlib.contextmanager
def _connection(uri: str) -> Iterator[Any]:
    """A connection with a pulse. Raises libvirtError."""
    connection = libvirt.open(uri)
    try:
        with contextlib.suppress(libvirt.libvirtError):  # a driver without a daemon has none
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        yield connection
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _see(domain: Any, phase: Phase | None, post: Callable[[Saying], None]) -> None:
    """Tell of a machine as it is now; one that has gone meanwhile is told of by another event."""
    try:
        post(Seen(domain_of(domain.XMLDesc(), phase or _phase(domain))))
    except libvirt.libvirtError as error:
        log.debug("a machine could not be looked at: %s", error)


def _phase(domain: Any) -> Phase:
    state, reason = domain.state()
    return phase_of(state, reason, receives=_receives(domain))


def _receives(domain: Any) -> bool:
    try:
        return bool(domain.jobStats().get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN)
    except libvirt.libvirtError:
        return False


class LibvirtMove:
    """One live migration, from the source's side; every call waits for libvirtd, each may come from another thread.

    libvirtd talks to the target's itself (peer to peer), so that it goes on when this process ends.
    """

    def __init__(self, uri: str, uuid: str, target: str, stream: str = "") -> None:
        self._uri, self._uuid, self._target, self._stream = uri, uuid, target, stream
        self._connection: Any = None

    def run(self) -> None:
        """Return when the machine is on the target. Raises DataplaneError with the reason why it is not."""
        try:
            self._connection = libvirt.open(self._uri)
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
            domain = self._connection.lookupByUUIDString(self._uuid)
            flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
            if domain.isPersistent():
                flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
            parameters = {libvirt.VIR_MIGRATE_PARAM_URI: self._stream} if self._stream else {}
            domain.migrateToURI3(self._target, parameters, flags)
        except libvirt.libvirtError as error:
            raise DataplaneError(str(error)) from error

    def percent(self) -> int:
        """Return how much is done, 0 if that cannot be known now."""
        return percent_done(self._job())

    def moved(self) -> int:
        """Return what grows as long as libvirt's job gets on, 0 if that cannot be known now."""
        return work_done(self._job())

    def cancel(self) -> bool:
        """Have the machine stay; False if there is nothing to be stopped (yet, or any more)."""
        try:
            if self._connection is None:
                return False
            self._connection.lookupByUUIDString(self._uuid).abortJob()
        except libvirt.libvirtError as error:
            log.info("cannot be cancelled now: %s", error)
            return False
        return True

    def _job(self) -> dict[str, object]:
        try:
            return dict(self._connection.lookupByUUIDString(self._uuid).jobStats()) if self._connection else {}
        except libvirt.libvirtError:
            return {}

    def runs_at(self, uri: str) -> bool | None:
        """Tell whether the machine is active there; None if that libvirtd cannot be asked."""
        try:
            connection = libvirt.open(uri)
        except libvirt.libvirtError:
            return None
        try:
            return bool(connection.lookupByUUIDString(self._uuid).isActive())
        except libvirt.libvirtError as error:
            return False if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN else None
        finally:
            connection.close()

    def here(self) -> bool | None:
        """As `runs_at`, on the source."""
        return self.runs_at(self._uri)

    def there(self) -> bool | None:
        """As `runs_at`, on the target."""
        return self.runs_at(self._target)

    def recover(self) -> str:
        """Return nothing: libvirtd has the machine go on itself, even when who asked for the move is gone."""
        return ""
