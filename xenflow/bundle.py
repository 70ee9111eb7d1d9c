"""Unpacking a bundle on the machine that it is for (`xenflow.pki.bundle` packs it). Standard library only.

Rules: nothing is written unless all of it can be; a file that is there with another content is left alone unless told
so; no member gets anywhere but under its plain name. A key may be read by the group of the daemons, if there is one.
"""

from __future__ import annotations

import grp
import os
import re
import tarfile
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError
from xenflow.files import PRIVATE, PUBLIC, make_directory, write_atomically

MAX_MEMBER_BYTES: Final = 4 << 20
GROUP: Final = "xenflow"
"""The group of the daemons that do not run as root; made by the Debian packages."""
KEY_MODE: Final = 0o640

_MEMBER = re.compile(r"((node|controller)/)?(ca|crl|certificate|key)\.pem|(client|server|app)\.toml")


def unpack(bundle: Path, directory: Path, *, force: bool = False) -> list[Path]:
    """Write the files of `bundle` into `directory` and return their paths. Raises ConfigError.

    Files that are there with the same content are no obstacle; with another one they are replaced by `force` only.
    """
    files = {directory / name: content for name, content in _read(bundle).items()}
    if not force and (different := [path for path, content in files.items() if _differs(path, content)]):
        raise ConfigError([f"{path}: exists already and is not overwritten; --force replaces it" for path in different])
    for path, content in files.items():
        make_directory(path.parent)
        if path.name == "key.pem":
            write_atomically(path, content, PRIVATE)
            if path.parent.name != "node":  # that of a node is root's: its server and Open vSwitch run as root
                _share(path)
        else:
            write_atomically(path, content, PUBLIC)
    return list(files)


def _read(bundle: Path) -> dict[str, bytes]:
    """Return name -> content of all members, the settings last: they name the others."""
    try:
        with tarfile.open(bundle) as archive:
            members = {member.name: _content(bundle, archive, member) for member in archive}
    except OSError as error:
        raise ConfigError([f"{bundle}: cannot be read: {error.strerror or error}"]) from error
    except tarfile.TarError as error:
        raise ConfigError([f"{bundle}: is no bundle: {error}"]) from error
    if not any(name.endswith("key.pem") for name in members):
        raise ConfigError([f"{bundle}: is no bundle: it has no key"])
    return dict(sorted(members.items(), key=lambda item: item[0].endswith(".toml")))


def _content(bundle: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if _MEMBER.fullmatch(member.name) is None or not member.isfile():
        raise ConfigError([f"{bundle}: is no bundle: it has {member.name[:80]!r}"])
    if member.size > MAX_MEMBER_BYTES:
        raise ConfigError([f"{bundle}: {member.name} has more than {MAX_MEMBER_BYTES} bytes"])
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _differs(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error


def _share(path: Path) -> None:
    """Let the daemons' group read a key; where there is no such group, or we are not root, it stays its owner's."""
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except (KeyError, PermissionError):
        return
    path.chmod(KEY_MODE)
