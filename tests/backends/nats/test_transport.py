"""Calls to an instance whose server is about to stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from aegis_backends.nats.connection import open_connection
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.transport import NatsTransport
from aegis_core.backend import Inbound, TransportUnavailable
from tests.backends.nats.polling import until
from tests.backends.nats.processes import ServerProcess, running_cluster

QUICK = ConnectOptions(backoff=0.01, max_backoff=0.05, connect_timeout=20.0)
SLOWLY = 'lame_duck_grace_period: "10s"\nlame_duck_duration: "30s"'


@pytest.mark.parametrize("tag", ["t1", ""])
async def test_endpoint_answers_every_request_while_it_moves_to_another_server(tag: str, tmp_path: Path) -> None:
    """Neither is a request lost nor is one refused: the new server has the endpoint before the old one gives it up."""
    with running_cluster(tmp_path, 3, SLOWLY) as servers:
        async with (
            open_connection([servers[2].url], QUICK) as asking,
            open_connection([servers[1].url], QUICK) as elsewhere,
            open_connection([servers[0].url], QUICK) as answering,
        ):
            transport = NatsTransport(asking)
            served: list[bytes] = []

            def answer(request: Inbound) -> None:
                served.append(request.payload)
                request.respond(request.payload)

            async with (
                NatsTransport(answering).listen("a-1", tag, answer) as endpoint,
                NatsTransport(elsewhere).listen("b-1", tag, answer) as neighbour,
            ):
                await until(lambda: len(answering.server.connect_urls) >= 3)
                number = 0

                async def ask(times: int, of: str, timeout: float) -> None:
                    nonlocal number
                    for _ in range(times):
                        number += 1
                        payload = b"%d" % number
                        assert await transport.request(of, payload, timeout=timeout) == payload

                with trio.fail_after(60):
                    for of in (endpoint, neighbour):
                        while True:
                            # Servers tell each other of subscriptions a moment later, and lose messages as they find each other.
                            try:
                                await ask(100, of, 1.0)
                                break
                            except (TransportUnavailable, trio.TooSlowError):
                                await trio.sleep(0.01)
                    served.clear()
                    number = 0
                    servers[0].send(signal.SIGUSR2)
                    while answering.connects < 2:
                        await ask(10, endpoint, 10.0)
                    await ask(100, endpoint, 10.0)
            assert served == [b"%d" % asked for asked in range(1, number + 1)]


async def test_answer_is_not_written_over_a_key(shared_server: ServerProcess) -> None:
    """Who asks may not be allowed to publish there; the instance is, and lends its permission to nobody."""
    async with (
        open_connection([shared_server.url]) as asking,
        open_connection([shared_server.url]) as answering,
        asking.subscribe("$KV.bucket.key") as written,
        asking.subscribe("answers") as answers,
        NatsTransport(answering).listen("a-1", "", lambda request: request.respond(request.payload)) as endpoint,
    ):
        for reply in ("$KV.bucket.key", "answers"):
            asking.publish(endpoint.removeprefix("nats:"), b"1", reply=reply)
        with trio.fail_after(60):
            assert (await answers.receive()).payload == b"1"
        assert written.pending == 0
