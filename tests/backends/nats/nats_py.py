"""A program that speaks NATS by nats-py, another client, and does what it is told: a command a line, as JSON.

What it was told to do it tells to be done, or what was raised; and each message that it gets, as a line of JSON. Payloads
travel as text of Latin-1, in which every byte is a character.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - nats-py needs it; that is why this is a program of its own
import json
import sys
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg


def tell(**what: object) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def shown(message: Msg) -> dict[str, object]:
    """What a test wants to know of *message*."""
    return {
        "subject": message.subject,
        "reply": message.reply,
        "payload": message.data.decode("latin-1"),
        "headers": message.headers,
    }


async def settle(client: Client) -> None:
    """Wait until the server has dealt with all that was said before.

    nats-py writes its PING past its own buffer, which may hold what was said before. After one round trip that is empty.
    """
    await client.flush()
    await client.flush()


async def carry_out(client: Client, command: dict[str, Any]) -> dict[str, object]:
    """Do what *command* says, and return what there is to tell of it."""
    subject = command.get("subject", "")
    payload = command.get("payload", "").encode("latin-1")
    headers = command.get("headers")

    async def show(message: Msg) -> None:
        tell(message=shown(message))

    async def answer(message: Msg) -> None:
        await client.publish(message.reply, b"from nats-py: " + message.data, headers=message.headers)

    match command["do"]:
        case "subscribe":
            await client.subscribe(subject, queue=command.get("queue", ""), cb=show)
            await settle(client)
        case "answer":
            await client.subscribe(subject, queue=command.get("queue", ""), cb=answer)
            await settle(client)
        case "publish":
            for _ in range(command.get("times", 1)):
                await client.publish(subject, payload, command.get("reply", ""), headers=headers)
            await settle(client)
        case "request":
            timeout = command.get("timeout", 10)
            return {"answer": shown(await client.request(subject, payload, timeout=timeout, headers=headers))}
        case "flush":
            await settle(client)
    return {}


async def main(url: str) -> None:
    """Serve standard input until its end."""
    client = await nats.connect(url)
    tell(done="connect")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            result = await carry_out(client, command)
        except Exception as exc:  # noqa: BLE001 - the test judges it
            tell(done=command["do"], error=type(exc).__name__)
        else:
            tell(done=command["do"], **result)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
