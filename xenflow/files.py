"""Keys, certificates, settings: a file has its old content or its new one, whenever the machine stops."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def write_atomically(path: Path, content: bytes, mode: int = PUBLIC, *, replace: bool = True) -> None:
    """Write `path` with `mode` by way of a temporary file in the same directory; on return it is on the disk.

    With `replace` False a file that is already there is left alone: ConfigError. Any other failure is a ConfigError
    as well, and leaves nothing behind.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)  # mode 0600 from the start
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(name, path)
            else:
                os.link(name, path)  # fails if it exists; no moment between asking and writing
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise ConfigError([f"{path}: exists already and is not overwritten; --force replaces it"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from error


def read(path: Path, purpose: str) -> bytes:
    """Return the content of `path`; `purpose` says in the ConfigError what it should have been."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {purpose} cannot be read: {error.strerror}"]) from error


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make the directory `path` and its parents unless it is there. Raises ConfigError."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{path}: the directory cannot be made: {error.strerror}"]) from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from changing the same authority meanwhile; they wait."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise ConfigError([f"{directory}: cannot be changed: {error.strerror}"]) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
