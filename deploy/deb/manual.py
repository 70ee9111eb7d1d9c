"""Manual pages from what the programs say about themselves: argparse's --help as text, click's commands as objects."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from xenflow.cli.main import xenflow

HELP_WIDTH = 200


def page(program: str, module: str, about: Mapping[str, Any], version: str, when: dt.datetime) -> str:
    """Return the page of `program`; `about` is its table in packages.toml."""
    title = f'.TH "{program.upper()}" "{about["section"]}" "{when:%B %Y}" "XenFlow {version}" "XenFlow"'
    head = [title, ".SH NAME", f"{_text(program)} \\- {_text(about['summary'])}"]
    body = _click_sections() if program == "xenflow" else _argparse_sections(program, module)
    lines = [*head, *body]
    for heading, key in (("SIGNALS", "signals"), ("FILES", "files"), ("EXIT STATUS", "status")):
        if key in about:
            lines += [f".SH {heading}", *_items(about[key].items())]
    pages = ", ".join(re.sub(r"(.*)\((\d)\)", r"\\fB\1\\fR(\2)", each.replace("-", r"\-")) for each in about["see"])
    lines += [".SH SEE ALSO", f"{pages}, and the documents in /usr/share/doc/xenflow"]
    return "\n".join(lines) + "\n"


def _argparse_sections(program: str, module: str) -> Iterator[str]:
    """Yield SYNOPSIS, DESCRIPTION and OPTIONS from --help."""
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env={**os.environ, "COLUMNS": str(HELP_WIDTH)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    before, _, options = shown.partition("options:\n")
    usage, _, description = before.partition("\n\n")
    words = usage.partition(" [")[2]
    yield from (".SH SYNOPSIS", f"\\fB{_text(program)}\\fR {_text(f'[{words}')}")
    yield from (".SH DESCRIPTION", _text(" ".join(description.split())), ".SH OPTIONS")
    for option in re.findall(r"^  (-\S.*(?:\n {4,}\S.*)*)", options, re.MULTILINE):
        name, _, meaning = " ".join(re.split(r"\n\s*", option, maxsplit=1)).partition("  ")
        yield from _items([(name, meaning.strip())])


def _click_sections() -> Iterator[str]:
    """Yield what `xenflow` does, and each command with its options."""
    yield from (".SH SYNOPSIS", r"\fBxenflow\fR \fICOMMAND\fR [\fIOPTION\fR ...] [\fIARGUMENT\fR ...]")
    yield from (".SH DESCRIPTION", *_paragraphs(xenflow.help or ""), ".SH COMMANDS")
    yield from _commands(xenflow, click.Context(xenflow, info_name="xenflow"))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.__class__.__name__ == "_Unavailable" or name == "lab":
            continue
        below = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, below)
            continue
        yield f".SS {_text(' '.join([below.command_path, *_arguments(command, below)]))}"
        yield from _paragraphs(command.help or "")
        yield from _items(
            record for parameter in command.params if (record := parameter.get_help_record(below)) is not None
        )


def _arguments(command: click.Command, context: click.Context) -> list[str]:
    return [word for word in command.collect_usage_pieces(context) if word != "[OPTIONS]"]


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _items(items: Sequence[tuple[str, str]] | Iterator[tuple[str, str]] | Any) -> Iterator[str]:
    for name, meaning in items:
        yield from (".TP", f"\\fB{_text(str(name))}\\fR", _text(meaning) or "\\&")


def _text(text: str) -> str:
    """Spell text so that troff shows it as it is."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe
