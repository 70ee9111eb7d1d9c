"""Frames that a guest must not get through: wrong tags, others' addresses, claims to be the gateway."""

from __future__ import annotations

from xenflow_lab import stations
from xenflow_lab.lab import Lab


def forgeries(lab: Lab) -> dict[str, list[str]]:
    """Return what red-h1 of the demo may try to reach blue, or to be somebody else: name -> arguments of `inject`.

    Frames carry the marker "intruder", but for those that red itself may see.
    """
    vids = {network.name: str(network.vid) for network in lab.plan.topology.network}
    gateway, victim = stations.mac(lab, "red-r1", "red-lan1"), stations.mac(lab, "blue-h2")
    service_tag = f"0x88a8:{vids['red-lan1']}"
    own = ["--source-ip", "10.0.1.10", "--destination-ip", "10.0.2.10"]
    to_all = ["--destination-mac", "ff:ff:ff:ff:ff:ff"]
    return {
        # an unknown address in its own network: red may see it flooded, blue must not see it
        "to blue's MAC": [*own, "--destination-mac", victim, "--tenant", "red"],
        "tag of its own network": [*own, *to_all, "--vlan", vids["red-lan1"]],
        "tag of blue's network": [*own, *to_all, "--vlan", vids["blue-lan1"]],
        "tag of blue, to the router": [*own, "--destination-mac", gateway, "--vlan", vids["blue-lan1"]],
        "two tags": [*own, *to_all, "--vlan", vids["red-lan1"], "--vlan", vids["blue-lan1"]],
        "two tags, the outer 802.1ad": [*own, *to_all, "--vlan", service_tag, "--vlan", vids["blue-lan1"]],
        "priority tag": [*own, *to_all, "--vlan", "0"],
        "somebody else's MAC": [*own, *to_all, "--source-mac", gateway],
        "blue's MAC as source": [*own, *to_all, "--source-mac", victim],
        "somebody else's IP": [
            "--source-ip", "10.0.1.99", "--destination-ip", "10.0.2.10", "--destination-mac", gateway,
        ],
        "somebody else's IPv6": [
            "--source-ip", "fd00:0:0:1::99", "--destination-ip", "fd00:0:0:2::10", "--destination-mac", gateway,
        ],
        "ARP reply for the gateway": [
            "--kind", "arp-reply", *to_all, "--source-ip", "10.0.1.1", "--destination-ip", "10.0.1.1",
        ],
        "ARP with another's MAC inside": [
            "--kind", "arp-request", *to_all, "--sender-mac", victim, "--source-ip", "10.0.1.10",
            "--destination-ip", "10.0.1.1",
        ],
        "advertisement for the gateway": ["--kind", "nd", "--source-ip", "fd00:0:0:1::1"],
        "advertisement with another's MAC inside": [
            "--kind", "nd", "--source-ip", "fd00:0:0:1::10", "--sender-mac", victim,
        ],
        "the reserved address": [*own, "--destination-mac", "aa:aa:aa:aa:aa:aa"],
    }  # fmt: skip
