"""A server for `xenflow-client` that says who came: `python -m tests.contract.little_server DIRECTORY NODE BUSY_S`.

Prints JSON lines: {"at": monotonic seconds, "event": "listening" | "hello" | "in-sync", "epoch": ...}. After each Begin
it is busy for BUSY_S: it does nothing else, as a server under load.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from xenflow.address import Address
from xenflow.channel import Channel, serve
from xenflow.identity import Identity
from xenflow.pki import Authority
from xenflow.replica import Inbox
from xenflow.tls import Credentials
from xenflow.wire import VERSION, Ack, Begin, End, Hello, Role, Update, Welcome


def say(event: str, epoch: int = 0) -> None:
    print(json.dumps({"at": time.monotonic(), "event": event, "epoch": epoch}), flush=True)


async def main(directory: Path, node: str, busy_s: float) -> None:
    authority = Authority.open(directory)
    credentials = Credentials(
        authority.ca_path,
        directory / "node" / f"{node}.pem",
        directory / "node" / f"{node}.key",
        authority.crl_path,
    )

    def welcome(hello: Hello, identity: Identity) -> Welcome:
        say("hello", hello.epoch)
        return Welcome(VERSION, Role.NODE, node)

    async def report(channel: Channel) -> None:
        inbox = Inbox("r1")
        async for message in channel:
            if isinstance(message, Begin | Update | End):
                inbox.receive(message)
            if isinstance(message, Begin):
                time.sleep(busy_s)  # on purpose: nothing else is done meanwhile
            if isinstance(message, End):
                await channel.send(Ack("r1", message.seq))
                say("in-sync")

    listener = await serve(Address.parse("ssl:[fe80::1%xfctl]:6655"), credentials, welcome, report)
    say("listening")
    await listener.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
