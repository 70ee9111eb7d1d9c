"""What makes one machine of the image: its second disk, a tar file. Pure: a router of the plan -> the bytes.

/etc/hostname, /etc/xenflow-vm/interfaces (MAC address, name), settings (below /proc/sys), network (for ip(8))
/etc/xenflow-vm/routing, client          what PID 1 runs; the client again and again
/etc/frr, /etc/bird, /etc/xenflow        settings, as in a real installation
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xenflow.identity import Identity
from xenflow.wire import Role
from xenflow_lab import fabric, programs, routing, toml
from xenflow_lab.paths import Paths
from xenflow_lab.plan import CONTROL_BRIDGE, Machine, Plan
from xenflow_lab.spaces import kernel_settings
from xenflow_lab.topology import Routing

SETTINGS: Final = "etc/xenflow"
HERE: Final = "etc/xenflow-vm"
BLOCK_BYTES: Final = 1 << 20
"""The disk is a multiple of this."""
_FRR: Final = """\
#!/bin/sh
# Not by watchfrr, which gives up on daemons that take long to start, as they do under emulation.
chown -R frr:frr /etc/frr
while read -r daemon; do $daemon -d; done < /etc/xenflow-vm/daemons
while read -r daemon _; do
    until [ -e "/run/frr/${daemon##*/}.vty" ]; do sleep 0.2; done
done < /etc/xenflow-vm/daemons
exec vtysh -b
"""
_BIRD: Final = (
    "#!/bin/sh\nexec bird -f -c /etc/bird/bird.conf -s /run/bird/bird.ctl -P /run/bird/bird.pid >/dev/console 2>&1\n"
)
_NOTHING: Final = "#!/bin/sh\n"
_CLIENT: Final = f"#!/bin/sh\nexec xenflow-client --config /{SETTINGS}/client.toml >/dev/console 2>&1\n"
_NO_CLIENT: Final = "#!/bin/sh\nexec sleep infinity\n"


Files = Mapping[str, tuple[str, int]]
"""Path: content, mode."""
NO_FILES: Final[Files] = MappingProxyType({})


def disk(plan: Plan, paths: Paths, router: Machine, *, with_client: bool = True, more: Files = NO_FILES) -> bytes:
    """Return the disk of `router`, with `more` files. Reads its certificates, if it is to have a client."""
    files = {**_network(plan, router), **_routing(router), **more}
    files[f"{HERE}/client"] = (_CLIENT if with_client else _NO_CLIENT, 0o755)
    if with_client:
        certificates = programs.certificates(paths, Identity(Role.ROUTER, router.name))
        names = {key: f"{key}.pem" for key in certificates}
        settings = {**programs.client_settings(paths, router), "tls": names}
        files[f"{SETTINGS}/client.toml"] = (toml.encode(settings), 0o644)
        for key, path in certificates.items():
            files[f"{SETTINGS}/{names[key]}"] = (Path(path).read_text(encoding="ascii"), 0o600)
    return _packed(files)


def _network(plan: Plan, router: Machine) -> dict[str, tuple[str, int]]:
    control = next(link for link in plan.controls if link.router == router.name)
    names = [*((i.mac, i.device) for i in router.interfaces), (control.mac, CONTROL_BRIDGE)]
    settings = kernel_settings(router)
    return {
        "etc/hostname": (f"{router.name}\n", 0o644),
        f"{HERE}/interfaces": ("".join(f"{mac} {name}\n" for mac, name in names), 0o644),
        f"{HERE}/settings": ("".join(f"{path} {value}\n" for path, value in settings.items()), 0o644),
        f"{HERE}/network": (fabric.guest_side(plan, router), 0o644),
    }


def _routing(router: Machine) -> dict[str, tuple[str, int]]:
    run = f"{HERE}/routing"
    if routing.uses(router, Routing.FRR):
        daemons = [" ".join(routing.frr_argv(name)) for name in routing.frr_daemons(router)]
        return {
            run: (_FRR, 0o755),
            f"{HERE}/daemons": ("".join(f"{line}\n" for line in daemons), 0o644),
            "etc/frr/vtysh.conf": ("service integrated-vtysh-config\n", 0o640),
            "etc/frr/frr.conf": (routing.frr_config(router), 0o640),
        }
    if routing.uses(router, Routing.BIRD):
        return {run: (_BIRD, 0o755), "etc/bird/bird.conf": (routing.bird_config(router), 0o640)}
    return {run: (_NOTHING, 0o755)}


def _packed(files: Files) -> bytes:
    """Return a tar file of these, filled up with zeros to whole blocks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (text, mode) in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    found = packed.getvalue()
    return found + bytes(-len(found) % BLOCK_BYTES)
