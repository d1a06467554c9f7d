"""Each side of the protocol against another implementation of the other side: nats-py, in a process of its own."""

from __future__ import annotations

import pytest
import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.errors import NoResponders
from aegis_backends.nats.headers import Headers
from aegis_backends.nats.protocol import Message
from tests.backends.nats.peers import open_peer
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess

BYTES = bytes(range(256)) + b"\r\n"


async def test_what_we_publish_the_peer_gets(shared_server: ServerProcess) -> None:
    """Subject, reply, every byte, and headers, of which one comes twice."""
    async with open_connection([shared_server.url]) as connection, open_peer(shared_server.url) as peer:
        await peer.do("subscribe", "peers.ours.*")
        connection.publish("peers.ours.plain", BYTES, reply="somewhere")
        connection.publish("peers.ours.empty")
        connection.publish("peers.ours.headed", BYTES, headers=Headers({"Key": "a value", "Other": "é"}))
        plain, empty, headed = [await peer.message() for _ in range(3)]
    text = BYTES.decode("latin-1")
    assert plain == {"subject": "peers.ours.plain", "reply": "somewhere", "payload": text, "headers": None}
    assert (empty["payload"], empty["reply"]) == ("", "")
    assert (headed["payload"], headed["headers"]) == (text, {"Key": "a value", "Other": "é"})


async def test_what_the_peer_publishes_we_get(shared_server: ServerProcess) -> None:
    """The other way round."""
    async with (
        open_connection([shared_server.url]) as connection,
        connection.subscribe("peers.theirs.>") as messages,
        open_peer(shared_server.url) as peer,
    ):
        text = BYTES.decode("latin-1")
        await peer.do("publish", "peers.theirs.plain", payload=text, reply="somewhere")
        await peer.do("publish", "peers.theirs.headed.too", payload=text, headers={"Key": "a value", "Other": "b"})
        plain, headed = await messages.receive(), await messages.receive()
    assert (plain.subject, plain.reply, plain.payload, plain.headers) == (
        *("peers.theirs.plain", "somewhere", BYTES),
        None,
    )
    assert headed.payload == BYTES
    assert headed.headers == Headers({"Key": "a value", "Other": "b"})


async def test_what_we_ask_the_peer_answers(shared_server: ServerProcess) -> None:
    """Many requests at once, each with its own answer; headers go both ways."""
    async with open_connection([shared_server.url]) as connection, open_peer(shared_server.url) as peer:
        await peer.do("answer", "peers.asked")
        answers: dict[int, Message] = {}

        async def ask(number: int) -> None:
            headers = Headers({"Number": str(number)})
            answers[number] = await connection.request("peers.asked", b"%d" % number, headers=headers, timeout=20)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
    for number, answer in answers.items():
        assert answer.payload == b"from nats-py: %d" % number
        assert answer.headers == Headers({"Number": str(number)})
    assert len(answers) == 200


async def test_what_the_peer_asks_we_answer(shared_server: ServerProcess) -> None:
    """To its own kind of inbox, with headers."""
    async with open_connection([shared_server.url]) as connection, open_peer(shared_server.url) as peer:

        def answer(message: Message) -> None:
            connection.publish(message.reply, message.payload[::-1], headers=message.headers)

        async with connection.listen("peers.asking", answer):
            told = await peer.do("request", "peers.asking", payload="abc", headers={"Key": "value"})
    assert (told["answer"]["payload"], told["answer"]["headers"]) == ("cba", {"Key": "value"})


async def test_neither_side_waits_for_nobody(shared_server: ServerProcess) -> None:
    """That nobody listens, both are told by the server; and one who leaves is nobody."""
    async with open_connection([shared_server.url]) as connection:
        async with open_peer(shared_server.url) as peer:
            with pytest.raises(NoResponders):
                await connection.request("peers.nobody", timeout=20)
            assert (await peer.do("request", "peers.nobody"))["error"] == "NoRespondersError"
            async with connection.listen("peers.left", lambda message: connection.publish(message.reply)):
                assert "answer" in await peer.do("request", "peers.left")
            await connection.flush()
            assert (await peer.do("request", "peers.left"))["error"] == "NoRespondersError"
            await peer.do("answer", "peers.leaves")
            await connection.request("peers.leaves", timeout=20)

        async def nobody_is_left() -> None:
            while True:
                await connection.request("peers.leaves", timeout=20)

        with pytest.raises(NoResponders), trio.fail_after(60):
            await nobody_is_left()


async def test_both_sides_are_members_of_one_queue_group(shared_server: ServerProcess) -> None:
    """Each message gets to one member; members of both kinds get some."""
    async with (
        open_connection([shared_server.url]) as connection,
        connection.subscribe("peers.shared", queue="members") as ours,
        open_peer(shared_server.url) as peer,
    ):
        await peer.do("subscribe", "peers.shared", queue="members")
        for number in range(200):
            connection.publish("peers.shared", b"%d" % number)
        await connection.flush()
        theirs = []
        while len(theirs) + ours.pending < 200:
            theirs.append((await peer.message())["payload"])
        mine = [ours.receive_nowait().payload.decode() for _ in range(ours.pending)]
        assert mine
        assert theirs
        assert sorted(mine + theirs, key=int) == [str(number) for number in range(200)]


async def test_a_flood_from_the_peer_arrives_whole(shared_server: ServerProcess) -> None:
    """However its pieces are cut."""
    size = 0

    def count(message: Message) -> None:
        nonlocal size
        size += len(message.payload)

    async with (
        open_connection([shared_server.url]) as connection,
        connection.listen("peers.flood", count),
        open_peer(shared_server.url) as peer,
    ):
        await peer.do("publish", "peers.flood", payload="x" * 1000, times=20_000)
        await until(lambda: size == 20_000_000, within=60)
