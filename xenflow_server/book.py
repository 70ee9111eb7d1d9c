"""What is defined on this node: the owner's files, and definitions that the app handed over for routers that move.

    definitions.d/*.toml (epoch 0) --+
    Define from the app (epoch > 0) -+-> Book -> Definitions -> inventory

Rules: the higher epoch wins, so that the old node's file does not win a router back; both kinds pass the same checks;
what is refused leaves everything as it was. At start a handed-over definition that does not fit the files (any more)
is left out by itself, and its router is then not defined at all: an older definition might put it in a wrong network.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from xenflow.errors import ConfigError
from xenflow.wire import Define, Undefine
from xenflow_server.definitions import Definitions, check, combine, read_files
from xenflow_server.handed import Handed, Store, as_table
from xenflow_server.tables import DefinitionsFile

Files = list[tuple[str, DefinitionsFile]]


class Book:
    """The definitions that count; `problems` are those of handed-over ones that were left out at start."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.problems: list[str] = []
        self.definitions = Definitions()
        self._directory = directory
        self.state = state
        self._store = Store(state)
        self._files: Files = []
        self._handed: dict[str, Handed] = {}
        self._unusable: set[str] = set()

    def start(self) -> Definitions:
        """Read everything. Raises ConfigError with all problems of the owner's files."""
        self._files = read_files(self._directory)
        check(self._files)
        self._adopt()
        return self.definitions

    def reload(self) -> Definitions:
        """Read the owner's files again. Raises ConfigError with all problems; everything stays as it was then."""
        files = read_files(self._directory)
        check(files)
        self._take(files, self._handed)
        if self._unusable:
            self._adopt()
        return self.definitions

    def define(self, order: Define) -> Definitions:
        """Take over a definition and keep it. Raises ConfigError with the reasons to refuse it."""
        fresh = Handed(order.epoch, as_table(order.machine, order.max_routes))
        name = order.machine.name
        known = self._handed.get(name)
        if order.epoch < 1:
            raise ConfigError([f"router {name!r}, handed over: epoch must be 1 or more ({order.epoch})"])
        if known == fresh:
            return self.definitions
        if known is not None and order.epoch <= known.epoch:
            raise ConfigError([f"router {name!r}: a definition of epoch {known.epoch} is here already"])
        handed = {**self._handed, name: fresh}
        check(self._merged(self._files, handed))
        try:
            self._store.save(fresh)
        except OSError as error:
            raise ConfigError([f"{self._store.path(name)}: cannot be kept: {error.strerror}"]) from error
        self._unusable.discard(name)
        return self._take(self._files, handed)

    def undefine(self, order: Undefine) -> Definitions:
        """Forget what was handed over, unless it is newer. Raises ConfigError if that is impossible."""
        known = self._handed.get(order.name)
        if known is None and order.name not in self._unusable:
            return self.definitions
        if known is not None and known.epoch > order.epoch:
            raise ConfigError([f"router {order.name!r}: its definition is newer: epoch {known.epoch}"])
        handed = {name: one for name, one in self._handed.items() if name != order.name}
        unusable = self._unusable - {order.name}
        check(self._merged(self._files, handed, unusable))
        try:
            self._store.remove(order.name)
        except OSError as error:
            raise ConfigError([f"{self._store.path(order.name)}: cannot be removed: {error.strerror}"]) from error
        self._unusable = unusable
        return self._take(self._files, handed)

    def lines(self) -> list[str]:
        """Return what was handed over, for a person."""
        own = {router.name for _, file in self._files for router in file.router}
        return [
            f"router {name}: handed over by the app, epoch {one.epoch}{' (instead of its file)' if name in own else ''}"
            for name, one in sorted(self._handed.items())
        ]

    def _adopt(self) -> None:
        """Add what is kept, one by one; what is unreadable or does not fit is left out, and its router with it."""
        kept, problems = self._store.load()
        handed, unusable = dict(self._handed), set(problems) | set(kept) - set(self._handed)
        said = list(problems.values())
        for name in sorted(set(kept) - set(handed)):
            fits = {**handed, name: kept[name]}
            _, contradictions = combine(self._merged(self._files, fits, unusable))
            if contradictions:
                said.extend(contradictions)
            else:
                handed = fits
                unusable.discard(name)
        self.problems, self._unusable = said, unusable
        self._take(self._files, handed)

    def _take(self, files: Files, handed: dict[str, Handed]) -> Definitions:
        epochs = {name: 0 for name in self._unusable if name} | {name: one.epoch for name, one in handed.items()}
        definitions = dataclasses.replace(check(self._merged(files, handed)), handed=epochs)
        self._files, self._handed, self.definitions = files, handed, definitions
        return definitions

    def _merged(self, files: Files, handed: dict[str, Handed], unusable: set[str] | None = None) -> Files:
        """Return the files without routers that were handed over, and those as files of their own, last."""
        newer = handed.keys() | (self._unusable if unusable is None else unusable)
        own = [
            (path, msgspec.structs.replace(file, router=[one for one in file.router if one.name not in newer]))
            for path, file in files
        ]
        return own + [
            (str(self._store.path(name)), DefinitionsFile(router=[one.router])) for name, one in sorted(handed.items())
        ]
