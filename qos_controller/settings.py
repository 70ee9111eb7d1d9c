"""What qos.toml says of sharing: when classes are measured, and by which policy each link is shared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from qos_controller.decision import Ceilings, Policy, PolicyKind, Weights, standard
from xenflow.settings import duplicates

PortName = Annotated[str, msgspec.Meta(pattern=r"^[!-.0-~]{1,15}\Z", description="the name of an interface")]


class LinkSharing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is different on one link."""

    port: PortName
    policy: PolicyKind | None = None
    weights: Weights | None = None
    ceilings: Ceilings | None = None


class Sharing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How links are measured and shared."""

    t_med_s: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 1.0
    """How often classes are measured and bandwidth is redistributed (the paper's t_med)."""
    k_med: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    """How many measurements count (the paper's k_med)."""
    policy: PolicyKind = PolicyKind.WORK_CONSERVING
    weights: Weights | None = None
    """What counts in level 1; by default what is usual for the policy."""
    ceilings: Ceilings | None = None
    """Where the `work-conserving` policy puts ceilings."""
    link: tuple[LinkSharing, ...] = ()

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield (key, reason) for what is wrong beyond types."""
        yield from duplicates([link.port for link in self.link], lambda number: f"link[{number}].port")
        tables: list[tuple[str, Sharing | LinkSharing]] = [("", self)]
        tables += [(f"link[{number}].", link) for number, link in enumerate(self.link, start=1)]
        for prefix, table in tables:
            kind = table.policy or self.policy
            if table.weights is not None and kind not in (PolicyKind.WORK_CONSERVING, PolicyKind.PAPER):
                yield f"{prefix}weights", f'the policy "{kind}" has no level 1'
            if table.ceilings is not None and kind is not PolicyKind.WORK_CONSERVING:
                yield f"{prefix}ceilings", f'the policy "{kind}" has no choice of ceilings'

    def policy_of(self, port: str) -> Policy:
        """Return the policy of the link of a port: its own, else the general one."""
        own = next((link for link in self.link if link.port == port), LinkSharing(port))
        usual = standard(own.policy or self.policy)
        inherits = usual.kind is self.policy
        return Policy(
            usual.kind,
            own.weights or (self.weights if inherits else None) or usual.weights,
            own.ceilings or (self.ceilings if inherits else None) or usual.ceilings,
        )
