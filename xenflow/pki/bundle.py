"""A bundle: one tar file with all that a process needs to prove who it is, to be carried to its machine.

Unpacked by `xenflow.bundle` (`xenflow-client --import`, `xenflow import`) or by tar alone (`tar -xpf r1.tar -C
/etc/xenflow`), since nothing of `xenflow pki` is installed in a router's VM. It holds a private key: the file has mode
0600, and so has the key inside. Paths in the settings are relative, so that it works wherever it is unpacked.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenflow.address import Address
from xenflow.errors import ConfigError
from xenflow.files import PRIVATE, PUBLIC, read, write_atomically
from xenflow.identity import Identity
from xenflow.pki.authority import Authority
from xenflow.pki.templates import router_settings
from xenflow.wire import Role

DEFAULT_SERVER: Final = Address.parse("ssl:[fe80::1%xfctl]:6655")
"""Where a router finds the server of the node that it runs on, the same on every node."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A file of settings for a bundle, and the directory where these expect the certificate ("": beside them)."""

    name: str
    text: str
    directory: str = ""


def write_bundle(
    authority: Authority, identity: Identity, path: Path, server: Address = DEFAULT_SERVER, *, force: bool = False
) -> list[str]:
    """Write the bundle of `identity` to `path`, and return the names of the files in it.

    A router's has the settings of its client, which connects to `server`. Raises ConfigError if the identity has no
    valid certificate, or `path` exists and not `force`.
    """
    settings = None
    if identity.role is Role.ROUTER:
        settings = Settings("client.toml", router_settings(identity.name, server))
    return write_bundle_with(authority, identity, path, settings, force=force)


def write_bundle_with(
    authority: Authority, identity: Identity, path: Path, settings: Settings | None, *, force: bool = False
) -> list[str]:
    """Write the bundle of `identity` with `settings`, if any, as `write_bundle` does."""
    issued = authority.issued(identity)
    if issued.entry.revoked is not None:
        raise ConfigError([f"{identity}: was revoked; `xenflow pki issue` gives it a new certificate"])
    at = f"{settings.directory}/" if settings is not None and settings.directory else ""
    members = {
        f"{at}ca.pem": (read(authority.ca_path, "the authority's certificate"), PUBLIC),
        f"{at}crl.pem": (read(authority.crl_path, "the CRL"), PUBLIC),
        f"{at}certificate.pem": (read(issued.certificate, "the certificate"), PUBLIC),
        f"{at}key.pem": (read(issued.key, "the private key"), PRIVATE),
    }
    if settings is not None:
        members[settings.name] = (settings.text.encode(), PUBLIC)
    write_atomically(path, _archive(members, int(issued.entry.issued.timestamp())), PRIVATE, replace=force)
    return list(members)


def _archive(members: dict[str, tuple[bytes, int]], modified_s: int) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (content, mode) in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, modified_s
            member.uname = member.gname = "root"
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()
