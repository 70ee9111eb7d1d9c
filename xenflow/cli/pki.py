"""`xenflow pki`: the certificate authority at the command line (what it does is in `xenflow.pki`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
from click.shell_completion import CompletionItem
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from xenflow.address import Address
from xenflow.cli.output import json_option, print_fields, print_json, print_table
from xenflow.errors import ConfigError
from xenflow.identity import Identity
from xenflow.pki import Authority, Entry, Issued, Lifetimes, write_bundle
from xenflow.pki.authority import MAX_DAYS, load_certificate, utc_now
from xenflow.pki.bundle import DEFAULT_SERVER
from xenflow.pki.check import verify_all, verify_file
from xenflow.pki.index import parse_index, serial_text
from xenflow.wire import Role

DEFAULT_DIRECTORY: Final = Path("/etc/xenflow/pki")
DEFAULTS: Final = Lifetimes()

Command = TypeVar("Command", bound=Callable[..., object])
PATH: Final = click.Path(path_type=Path)
DAYS: Final = click.IntRange(1, MAX_DAYS)


if TYPE_CHECKING:
    _Base = click.ParamType[Address]
else:
    _Base = click.ParamType  # no generic class before click 8.2


class _AddressType(_Base):
    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return value if isinstance(value, Address) else Address.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the role at hand that the index has; completion never fails, it only offers nothing."""
    directory = ctx.params.get("directory") or DEFAULT_DIRECTORY
    try:
        entries = parse_index((directory / "index.txt").read_text())
    except (OSError, ValueError):
        return []
    names = {entry.identity.name for entry in entries if entry.identity.role.value == ctx.params.get("role")}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def directory_option(command: Command) -> Command:
    """Give a command the option --dir, as its argument `directory`."""
    return click.option(
        "-d",
        "--dir",
        "directory",
        type=PATH,
        default=DEFAULT_DIRECTORY,
        envvar="XENFLOW_PKI",
        show_default=True,
        show_envvar=True,
        is_eager=True,
        help="The authority's directory.",
    )(command)


def identity_arguments(command: Command) -> Command:
    """Give a command the arguments ROLE and NAME."""
    name = click.argument("name", shell_complete=_complete_name)
    return click.argument("role", type=click.Choice([role.value for role in Role]))(name(command))


@click.group()
def pki() -> None:
    """Create and keep the certificates by which the processes know each other."""


@pki.command()
@click.argument("directory", type=PATH, default=DEFAULT_DIRECTORY, envvar="XENFLOW_PKI")
@click.option("--ca-days", type=DAYS, default=DEFAULTS.ca_days, show_default=True, help="Lifetime of the authority.")
@click.option("--crl-days", type=DAYS, default=DEFAULTS.crl_days, show_default=True, help="Lifetime of the CRL.")
@click.option("--force", is_flag=True, help="Replace an authority that is there; its certificates end with it.")
@json_option
def init(directory: Path, ca_days: int, crl_days: int, force: bool, as_json: bool) -> None:
    """Create an authority in DIRECTORY."""
    authority = Authority.create(directory, Lifetimes(ca_days=ca_days, crl_days=crl_days), force=force)
    _print(_authority_fields(authority), as_json)


@pki.command()
@identity_arguments
@directory_option
@click.option("--days", type=DAYS, default=DEFAULTS.certificate_days, show_default=True, help="Lifetime.")
@click.option("--force", is_flag=True, help="Revoke the valid certificate, and overwrite the private key.")
@json_option
def issue(role: str, name: str, directory: Path, days: int, force: bool, as_json: bool) -> None:
    """Issue a key and a certificate for ROLE NAME, such as `router r1`."""
    issued = Authority.open(directory).issue(_identity(role, name), days, force=force)
    _print(_issued_fields(issued), as_json)


@pki.command()
@identity_arguments
@directory_option
@click.option("--days", type=DAYS, default=DEFAULTS.certificate_days, show_default=True, help="Lifetime.")
@click.option("--new-key", is_flag=True, help="Make a new private key, too; the old one is overwritten.")
@json_option
def renew(role: str, name: str, directory: Path, days: int, new_key: bool, as_json: bool) -> None:
    """Issue a new certificate to ROLE NAME; the old one stays good until it expires."""
    issued = Authority.open(directory).renew(_identity(role, name), days, new_key=new_key)
    _print(_issued_fields(issued), as_json)


@pki.command()
@click.argument("role", type=click.Choice([role.value for role in Role]), required=False)
@click.argument("name", required=False, shell_complete=_complete_name)
@click.option("--serial", help="Revoke only the certificate with this serial number (hexadecimal).")
@directory_option
@click.option("--crl-days", type=DAYS, default=DEFAULTS.crl_days, show_default=True, help="Lifetime of the new CRL.")
@json_option
def revoke(
    role: str | None, name: str | None, serial: str | None, directory: Path, crl_days: int, as_json: bool
) -> None:
    """Revoke all certificates of ROLE NAME, or one by its serial number, and write a new CRL."""
    if (serial is None) == (role is None or name is None):
        raise click.UsageError("name what to revoke: either ROLE NAME or --serial")
    authority = Authority.open(directory)
    if serial is not None:
        revoked = authority.revoke_serial(_serial(serial), crl_days)
    else:
        revoked = authority.revoke(_identity(role or "", name or ""), crl_days)
    if as_json:
        print_json({"revoked": [_entry_document(entry) for entry in revoked], "crl": str(authority.crl_path)})
        return
    for entry in revoked:
        click.echo(f"revoked {entry.identity}, serial {serial_text(entry.serial)}")
    click.echo(f"Copy {authority.crl_path} to every machine: it takes effect there at once, on live connections too.")


@pki.command()
@directory_option
@click.option("--days", type=DAYS, default=DEFAULTS.crl_days, show_default=True, help="Lifetime of the new CRL.")
@json_option
def crl(directory: Path, days: int, as_json: bool) -> None:
    """Write a new CRL: before the old one expires."""
    authority = Authority.open(directory)
    authority.renew_crl(days)
    _print(_crl_fields(authority), as_json)


@pki.command("list")
@directory_option
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List all certificates that were issued."""
    entries = Authority.open(directory).entries()
    if as_json:
        print_json([_entry_document(entry) for entry in entries])
        return
    now = utc_now()
    print_table(
        ("IDENTITY", "STATUS", "EXPIRES", "SERIAL"),
        ((e.identity, e.status(now).value, _time(e.expires), serial_text(e.serial)) for e in entries),
        empty="nothing has been issued yet",
    )


@pki.command()
@click.argument("role", type=click.Choice([role.value for role in Role]), required=False)
@click.argument("name", required=False, shell_complete=_complete_name)
@directory_option
@json_option
def show(role: str | None, name: str | None, directory: Path, as_json: bool) -> None:
    """Show the certificate of ROLE NAME, or without them the authority and its CRL."""
    authority = Authority.open(directory)
    if role is None:
        _print({**_authority_fields(authority), **_crl_fields(authority)}, as_json)
        return
    if name is None:
        raise click.UsageError("name the certificate: ROLE NAME")
    issued = authority.issued(_identity(role, name))
    certificate = load_certificate(issued.certificate)
    _print({**_issued_fields(issued), "fingerprint": _fingerprint(certificate)}, as_json)


@pki.command()
@click.argument("files", type=PATH, nargs=-1)
@directory_option
@json_option
def verify(files: tuple[Path, ...], directory: Path, as_json: bool) -> int:
    """Check certificate FILES, or without them everything in the authority. Exit code 1 if something is wrong."""
    authority, now = Authority.open(directory), utc_now()
    verdicts = [verify_file(authority, path, now) for path in files] if files else verify_all(authority, now)
    if as_json:
        print_json(
            [
                {"path": str(v.path), "subject": v.subject, "problems": v.problems, "warnings": v.warnings}
                for v in verdicts
            ]
        )
    else:
        remarks = ((v.subject, "; ".join((*v.problems, *v.warnings)) or "good", v.path) for v in verdicts)
        print_table(("SUBJECT", "VERDICT", "FILE"), remarks)
    return 1 if any(verdict.problems for verdict in verdicts) else 0


@pki.command()
@identity_arguments
@directory_option
@click.option("-o", "--output", type=PATH, help="The file to write; NAME.tar by default.")
@click.option(
    "--server",
    type=_AddressType(),
    default=str(DEFAULT_SERVER),
    show_default=True,
    help="Where a router's client connects to.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@json_option
def bundle(
    role: str, name: str, directory: Path, output: Path | None, server: Address, force: bool, as_json: bool
) -> None:
    """Write one tar file with all that ROLE NAME needs, to be carried to its machine.

    Unpack it there with: tar -xpf NAME.tar -C /etc/xenflow
    """
    identity = _identity(role, name)
    path = output or Path(f"{identity.name}.tar")
    members = write_bundle(Authority.open(directory), identity, path, server, force=force)
    if as_json:
        print_json({"bundle": str(path), "files": members})
        return
    click.echo(f"wrote {path} ({', '.join(members)})")
    click.echo(f"It holds the private key. Unpack it on the machine: tar -xpf {path.name} -C /etc/xenflow")


def _identity(role: str, name: str) -> Identity:
    try:
        return Identity(Role(role), name)
    except ValueError as error:
        raise ConfigError([f"NAME: {error}"]) from error


def _serial(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError as error:
        raise ConfigError([f"--serial: must be hexadecimal, as `xenflow pki list` shows it ({text[:80]!r})"]) from error


def _print(fields: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        print_fields(fields.items())


def _authority_fields(authority: Authority) -> dict[str, object]:
    certificate = authority.signer.certificate
    return {
        "authority": certificate.subject.rfc4514_string(),
        "certificate": str(authority.ca_path),
        "expires": _time(certificate.not_valid_after_utc),
        "fingerprint": _fingerprint(certificate),
        "crl": str(authority.crl_path),
    }


def _crl_fields(authority: Authority) -> dict[str, object]:
    current = authority.crl()
    number = current.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    expires = current.next_update_utc
    return {
        "crl": str(authority.crl_path),
        "crl_number": number,
        "crl_expires": _time(expires) if expires else "never",
        "revoked": len(current),
    }


def _issued_fields(issued: Issued) -> dict[str, object]:
    document = _entry_document(issued.entry)
    return {**document, "certificate": str(issued.certificate), "key": str(issued.key)}


def _entry_document(entry: Entry) -> dict[str, object]:
    return {
        "identity": str(entry.identity),
        "uri": entry.identity.uri,
        "status": entry.status(utc_now()).value,
        "serial": serial_text(entry.serial),
        "issued": _time(entry.issued),
        "expires": _time(entry.expires),
        "revoked": _time(entry.revoked) if entry.revoked else None,
    }


def _time(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":")
