"""The last plan on disk, so that a daemon that starts anew keeps promises before anybody tells it of them.

The bridge's datapath type belongs to it: what tells frames apart must not change only because the database is away.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from xenflow.bandwidth import PortQueues
from xenflow.errors import ConfigError
from xenflow.shape import malformed

log = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True):
    """What the file says; `datapath_type` is empty if it was never known."""

    datapath_type: str = ""
    links: list[PortQueues] = []


class Store:
    """One file, `qos.json`, replaced at once; only if what it says has changed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "qos.json"
        self._written = b""

    def load(self) -> Kept:
        """Return the last plan, empty if there is none; one that is damaged is reported and left out.

        Raises ConfigError if the file cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Kept()
        except OSError as error:
            raise ConfigError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        try:
            kept = msgspec.json.decode(data, type=Kept)
            problem = next(filter(None, map(malformed, kept.links)), "")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            kept, problem = Kept(), str(error)
        if problem:
            log.error("the last plan is damaged, waiting for a new one file=%s why=%s", self._path, problem)
            return Kept()
        self._written = data
        return kept

    def save(self, facts: Iterable[PortQueues], datapath_type: str) -> None:
        """Write the plan; a failure is reported, since shaping goes on without the file."""
        data = msgspec.json.encode(Kept(datapath_type, sorted(facts, key=lambda fact: fact.port)))
        if data == self._written:
            return
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            log.error("the plan cannot be kept file=%s why=%s", self._path, error.strerror)
            return
        self._written = data
