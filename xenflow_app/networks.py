"""Which virtual networks there are: what the nodes declare, where they agree (pure).

A name stands for one VLAN id and an id for one name, on all nodes. Who was first is right; a node that says something
else has no part in that network until it agrees: isolation fails closed.
"""

from __future__ import annotations

from collections.abc import Mapping


class Networks:
    """The networks of all nodes, by name."""

    def __init__(self) -> None:
        self._declared: dict[str, dict[str, int]] = {}
        self._vid: dict[str, int] = {}
        self._name: dict[int, str] = {}
        self._changed = False

    def declare(self, node: str, networks: Mapping[str, int]) -> list[str]:
        """A node declares these networks (name -> VLAN id) and no others; return what does not fit, as text."""
        before = dict(self._vid), {name: self.agreed(name) for name in self._declared}
        self._declared[node] = dict(networks)
        for name, vid in list(self._vid.items()):
            if not any(declared.get(name) == vid for declared in self._declared.values()):
                del self._vid[name], self._name[vid]
        for declared in self._declared.values():
            for name, vid in declared.items():
                if name not in self._vid and vid not in self._name:
                    self._vid[name] = vid
                    self._name[vid] = name
        self._changed |= before != (self._vid, {name: self.agreed(name) for name in self._declared})
        return [
            f"network {name!r} with VLAN id {vid}: " + self._conflict(name, vid)
            for name, vid in networks.items()
            if self._vid.get(name) != vid
        ]

    def _conflict(self, name: str, vid: int) -> str:
        if name in self._vid:
            return f"elsewhere it has VLAN id {self._vid[name]}"
        return f"elsewhere that VLAN id belongs to network {self._name[vid]!r}"

    def agreed(self, node: str) -> dict[str, int]:
        """Return the networks of a node that all nodes agree on."""
        declared = self._declared.get(node, {})
        return {name: vid for name, vid in declared.items() if self._vid.get(name) == vid}

    def vids(self) -> list[int]:
        """Return the VLAN ids of all networks."""
        return sorted(self._name)

    def name(self, vid: int) -> str:
        """Return the name of the network with this VLAN id; empty if there is none."""
        return self._name.get(vid, "")

    def take_changed(self) -> bool:
        """Return whether anything has changed since the last call."""
        changed, self._changed = self._changed, False
        return changed
