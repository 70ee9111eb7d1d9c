"""The last plan on disk, so that a daemon that starts anew keeps promises before anybody tells it of them."""

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


class Store:
    """One file, `qos.json`, replaced at once; only if what it says has changed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "qos.json"
        self._written = b""

    def load(self) -> list[PortQueues]:
        """Return the last plan, empty if there is none; one that cannot be read is reported and left out."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        try:
            facts = msgspec.json.decode(data, type=list[PortQueues])
            problem = next(filter(None, map(malformed, facts)), "")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            facts, problem = [], str(error)
        if problem:
            log.error("the last plan is damaged, waiting for a new one file=%s why=%s", self._path, problem)
            return []
        self._written = data
        return facts

    def save(self, facts: Iterable[PortQueues]) -> None:
        """Write the plan; a failure is reported, since shaping goes on without the file."""
        data = msgspec.json.encode(sorted(facts, key=lambda fact: fact.port))
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
