"""Flows as text, as `ovs-ofctl --no-stats dump-flows` prints them, but for `table=0`, which is shown here.

For people and for comparisons with the real tool (match_format and ofpacts_format of Open vSwitch). What is not ours to
print (an action or field that this program does not use) is shown as its bytes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator

from xenflow_app.openflow import actions as act
from xenflow_app.openflow import fields, nxm
from xenflow_app.openflow.actions import FlowValue
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.nxm import FlowKey

_DEFAULT_PRIORITY = 0x8000
_CFI, _VID, _PCP = 0x1000, 0x0FFF, 0xE000
_PORTS = {0xFFFA: "NORMAL", act.IN_PORT: "IN_PORT", act.TABLE: "TABLE", act.FLOOD: "FLOOD", act.ALL: "ALL"}
_PORTS |= {act.LOCAL: "LOCAL", act.NONE: "NONE"}
_PROTOCOLS = {
    (nxm.ETH_IP, None): "ip",
    (nxm.ETH_IP, nxm.ICMP): "icmp",
    (nxm.ETH_IP, nxm.TCP): "tcp",
    (nxm.ETH_IP, nxm.UDP): "udp",
    (nxm.ETH_IP, 132): "sctp",
    (nxm.ETH_IPV6, None): "ipv6",
    (nxm.ETH_IPV6, nxm.ICMP6): "icmp6",
    (nxm.ETH_IPV6, nxm.TCP): "tcp6",
    (nxm.ETH_IPV6, nxm.UDP): "udp6",
    (nxm.ETH_IPV6, 132): "sctp6",
    (nxm.ETH_ARP, None): "arp",
}
_FRAGMENTS = {(0, 3): "no", (1, 3): "first", (3, 3): "later", (1, 1): "yes", (0, 1): "no", (0, 2): "not_later"}
_FRAGMENTS |= {(2, 2): "later"}
_REASONS = {0: "no_match", 1: "action", 2: "invalid_ttl"}
_HASHES = ("eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst", "symmetric_l3")
_ALGORITHMS = ("modulo_n", "hash_threshold", "hrw", "iter_hash")


def flow(key: FlowKey, value: FlowValue) -> str:
    """Return a flow as one line. Raises ValueError for bytes that are no flow."""
    table, priority = nxm.KEY_HEAD.unpack_from(key)
    cookie, idle_s, _flags = act.VALUE_HEAD.unpack_from(value)
    head = [f"cookie={cookie:#x}", f"table={table}"]
    if idle_s:
        head.append(f"idle_timeout={idle_s}")
    conditions = ",".join(filter(None, (_priority(priority), match(key[3:]))))
    tail = f"{conditions} " if conditions else ""
    return f"{', '.join(head)}, {tail}actions={actions(value[act.VALUE_HEAD.size :])}"


def match(match_bytes: bytes) -> str:
    """Return a match as text, empty for one that takes all packets. Raises ValueError for malformed bytes."""
    fields_left: dict[int, tuple[bytes, bytes]] = {}
    for header, body in entries(match_bytes):
        if header & 0x100:
            half = len(body) // 2
            fields_left[(header & ~0x1FF) | half] = body[:half], body[half:]
        else:
            fields_left[header] = body, b"\xff" * len(body)
    parts = list(_protocol(fields_left))
    for header, show in _ORDER:
        if header in fields_left:
            parts.append(show(*fields_left.pop(header)))
    parts += [f"{header:#010x}={value.hex()}/{mask.hex()}" for header, (value, mask) in fields_left.items()]
    return ",".join(parts)


def actions(action_bytes: bytes) -> str:
    """Return actions as text, "drop" for none. Raises ValueError for malformed bytes."""
    return ",".join(_action(action) for action in _split(action_bytes)) or "drop"


def _priority(priority: int) -> str:
    return "" if priority == _DEFAULT_PRIORITY else f"priority={priority}"


def _protocol(found: dict[int, tuple[bytes, bytes]]) -> Iterator[str]:
    """Yield the protocol's name, and take out of `found` what it says."""
    if fields.ETH_TYPE not in found:
        return
    dl_type = int.from_bytes(found[fields.ETH_TYPE][0], "big")
    proto = int.from_bytes(found[fields.IP_PROTO][0], "big") if fields.IP_PROTO in found else None
    name = _PROTOCOLS.get((dl_type, proto))
    if proto is not None and name:
        del found[fields.IP_PROTO]
    name = name or _PROTOCOLS.get((dl_type, None))
    if name:
        del found[fields.ETH_TYPE]
        yield name


def _is_exact(mask: bytes) -> bool:
    return not mask.strip(b"\xff")


def _hex_number(name: str) -> Callable[[bytes, bytes], str]:
    def show(value: bytes, mask: bytes) -> str:
        text = f"{name}={int.from_bytes(value, 'big'):#x}"
        return text if _is_exact(mask) else f"{text}/{int.from_bytes(mask, 'big'):#x}"

    return show


def _number(name: str) -> Callable[[bytes, bytes], str]:
    masked = _hex_number(name)

    def show(value: bytes, mask: bytes) -> str:
        return f"{name}={int.from_bytes(value, 'big')}" if _is_exact(mask) else masked(value, mask)

    return show


def _mac(name: str) -> Callable[[bytes, bytes], str]:
    def show(value: bytes, mask: bytes) -> str:
        return f"{name}={value.hex(':')}" + ("" if _is_exact(mask) else f"/{mask.hex(':')}")

    return show


def _address(name: str) -> Callable[[bytes, bytes], str]:
    def show(value: bytes, mask: bytes) -> str:
        text = f"{name}={ipaddress.ip_address(value)}"
        if _is_exact(mask):
            return text
        length = int.from_bytes(mask, "big").bit_count()
        is_prefix = mask == nxm.prefix_mask(length, len(mask))
        return f"{text}/{length if is_prefix else ipaddress.ip_address(mask)}"

    return show


def _vlan(value_bytes: bytes, mask_bytes: bytes) -> str:
    value, mask = int.from_bytes(value_bytes, "big"), int.from_bytes(mask_bytes, "big")
    vid, pcp = mask & _VID, mask & _PCP
    if mask & value & _CFI and vid in (0, _VID) and pcp in (0, _PCP) and (vid or pcp):
        parts = [f"dl_vlan={value & _VID}"] if vid else []
        parts += [f"dl_vlan_pcp={value >> 13}"] if pcp else []
        return ",".join(parts)
    return f"vlan_tci={value:#06x}" + ("" if mask == 0xFFFF else f"/{mask:#06x}")


def _fragment(value: bytes, mask: bytes) -> str:
    known = _FRAGMENTS.get((value[0], mask[0] & 3))
    return f"nw_frag={known}" if known else f"nw_frag={value[0]}/{mask[0]}"


_ORDER: tuple[tuple[int, Callable[[bytes, bytes], str]], ...] = (
    *((header, _hex_number(f"reg{number}")) for number, header in enumerate(fields.REGISTERS)),
    (fields.IN_PORT, lambda value, _mask: f"in_port={_port(int.from_bytes(value, 'big'))}"),
    (fields.VLAN_TCI, _vlan),
    (fields.ETH_SRC, _mac("dl_src")),
    (fields.ETH_DST, _mac("dl_dst")),
    (fields.ETH_TYPE, lambda value, _mask: f"dl_type={int.from_bytes(value, 'big'):#06x}"),
    (fields.IPV6_SRC, _address("ipv6_src")),
    (fields.IPV6_DST, _address("ipv6_dst")),
    (fields.ARP_SPA, _address("arp_spa")),
    (fields.ARP_TPA, _address("arp_tpa")),
    (fields.IP_SRC, _address("nw_src")),
    (fields.IP_DST, _address("nw_dst")),
    (fields.IP_PROTO, _number("nw_proto")),
    (fields.ARP_OP, _number("arp_op")),
    (fields.ARP_SHA, _mac("arp_sha")),
    (fields.ARP_THA, _mac("arp_tha")),
    (fields.IP_TOS, _number("nw_tos")),
    (fields.IP_TTL, _number("nw_ttl")),
    (fields.IP_FRAG, _fragment),
    (fields.ICMP_TYPE, _number("icmp_type")),
    (fields.ICMP_CODE, _number("icmp_code")),
    (fields.ICMP6_TYPE, _number("icmp_type")),
    (fields.ICMP6_CODE, _number("icmp_code")),
    (fields.ND_TARGET, _address("nd_target")),
    (fields.ND_SLL, _mac("nd_sll")),
    (fields.ND_TLL, _mac("nd_tll")),
    (fields.TCP_SRC, _number("tp_src")),
    (fields.TCP_DST, _number("tp_dst")),
    (fields.UDP_SRC, _number("tp_src")),
    (fields.UDP_DST, _number("tp_dst")),
)


def _split(action_bytes: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(action_bytes):
        length = int.from_bytes(action_bytes[offset + 2 : offset + 4], "big")
        if length < 8 or offset + length > len(action_bytes):
            raise ValueError(f"an action of {length} bytes at {offset}")
        yield action_bytes[offset : offset + length]
        offset += length


def _action(action: bytes) -> str:
    kind = int.from_bytes(action[:2], "big")
    try:
        if kind != 0xFFFF:
            show = _STANDARD.get(kind)
        else:
            vendor, subtype = struct.unpack_from(">IH", action, 4)
            show = _NICIRA.get(subtype) if vendor == act.VENDOR else None
        return show(action) if show else f"unknown({action.hex()})"
    except struct.error as error:
        raise ValueError(f"action {action.hex()}: {error}") from error


def _port(number: int) -> str:
    return _PORTS.get(number, str(number))


def _output(action: bytes) -> str:
    port, max_bytes = struct.unpack_from(">HH", action, 4)
    if port == act.CONTROLLER:
        return f"CONTROLLER:{max_bytes}"
    return _PORTS.get(port, f"output:{port}")


def _subfield(header: int, ofs: int, nbits: int) -> str:
    name = fields.NAMES.get(header, f"{header:#010x}")
    if nbits == fields.bits(header):
        return f"{name}[]"
    return f"{name}[{ofs}]" if nbits == 1 else f"{name}[{ofs}..{ofs + nbits - 1}]"


def _span(header: int, ofs_nbits: int) -> str:
    return _subfield(header, ofs_nbits >> 6, (ofs_nbits & 0x3F) + 1)


def _resubmit(action: bytes) -> str:
    port, table = struct.unpack_from(">HB", action, 10)
    return f"resubmit({'' if port == act.IN_PORT else _port(port)},{table})"


def _load(action: bytes) -> str:
    ofs_nbits, header, number = struct.unpack_from(">HIQ", action, 10)
    return f"load:{_hex(number)}->{_span(header, ofs_nbits)}"


def _hex(number: int) -> str:
    """Return a number as printf's %#x does: zero has no prefix."""
    return f"{number:#x}" if number else "0"


def _move(action: bytes) -> str:
    nbits, src_ofs, dst_ofs, src, dst = struct.unpack_from(">HHHII", action, 10)
    return f"move:{_subfield(src, src_ofs, nbits)}->{_subfield(dst, dst_ofs, nbits)}"


def _set_queue(action: bytes) -> str:
    return f"set_queue:{struct.unpack_from('>I', action, 12)[0]}"


def _output_reg(action: bytes) -> str:
    ofs_nbits, header = struct.unpack_from(">HI", action, 10)
    return f"output:{_span(header, ofs_nbits)}"


def _multipath(action: bytes) -> str:
    hashed, basis, algorithm, max_link, arg, ofs_nbits, dst = struct.unpack_from(">HH2xHHI2xHI", action, 10)
    if hashed >= len(_HASHES) or algorithm >= len(_ALGORITHMS):
        return f"unknown({action.hex()})"
    names = f"{_HASHES[hashed]},{basis},{_ALGORITHMS[algorithm]}"
    return f"multipath({names},{max_link + 1},{arg},{_span(dst, ofs_nbits)})"


def _check_pkt_larger(action: bytes) -> str:
    size, ofs, header = struct.unpack_from(">HHI", action, 10)
    return f"check_pkt_larger({size})->{_subfield(header, ofs, 1)}"


def _controller(action: bytes) -> str:
    max_bytes, controller_id, reason = struct.unpack_from(">HHB", action, 10)
    parts = [f"reason={_REASONS.get(reason, reason)}"] if reason != act.Reason.ACTION else []
    parts += [f"max_len={max_bytes}"] if max_bytes != 0xFFFF else []
    parts += [f"id={controller_id}"] if controller_id else []
    return f"controller({','.join(parts)})"


def _learn(action: bytes) -> str:
    idle, hard, priority, cookie, _flags, table = struct.unpack_from(">HHHQHB", action, 10)
    parts = [f"table={table}"]
    parts += [f"{name}={number}" for name, number in (("idle_timeout", idle), ("hard_timeout", hard)) if number]
    parts += [_priority(priority)] if priority != _DEFAULT_PRIORITY else []
    parts += [f"cookie={cookie:#x}"] if cookie else []
    offset = 32
    while offset + 14 <= len(action):
        nbits, src, src_ofs, dst, dst_ofs = struct.unpack_from(">HIHIH", action, offset)
        if not nbits:
            break
        if nbits >> 11 or (src, src_ofs) != (dst, dst_ofs):
            return f"unknown({action.hex()})"
        parts.append(_subfield(src, src_ofs, nbits))
        offset += 14
    return f"learn({','.join(parts)})"


_STANDARD: dict[int, Callable[[bytes], str]] = {
    0: _output,
    1: lambda action: f"mod_vlan_vid:{int.from_bytes(action[4:6], 'big')}",
    2: lambda action: f"mod_vlan_pcp:{action[4]}",
    3: lambda _action: "strip_vlan",
    4: lambda action: f"mod_dl_src:{action[4:10].hex(':')}",
    5: lambda action: f"mod_dl_dst:{action[4:10].hex(':')}",
}
_NICIRA: dict[int, Callable[[bytes], str]] = {
    4: _set_queue,
    6: _move,
    7: _load,
    10: _multipath,
    14: _resubmit,
    15: _output_reg,
    16: _learn,
    18: lambda _action: "dec_ttl",
    20: _controller,
    49: _check_pkt_larger,
}
