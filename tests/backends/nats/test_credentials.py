"""Logging in to real servers, with every kind of credentials that they know: right, wrong, renewed, taken away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from aegis_backends.nats.auth import Credentials, CredentialsFile, NkeySeed, Token, UserPassword
from aegis_backends.nats.connection import Connection, ConnectionState, open_connection
from aegis_backends.nats.errors import AuthorizationFailed, NoResponders, PermissionDenied
from aegis_backends.nats.options import ConnectOptions
from aegis_backends.nats.protocol import Error, Info
from tests.backends.nats.issuing import Keys, Operator
from tests.backends.nats.polling import until
from tests.backends.nats.processes import running
from tests.backends.nats.scripted import INFO, Client, open_scripted

QUICK = ConnectOptions(connect_timeout=20.0, backoff=0.01, max_backoff=0.05)


@attrs.frozen
class Case:
    """A server's settings, and who is let in by them and who is not."""

    settings: str
    right: Credentials
    wrong: Credentials


def password(_folder: Path) -> Case:
    """A user and a password."""
    settings = 'authorization { user: alice, password: "s3cret" }'
    return Case(settings, UserPassword("alice", "s3cret"), UserPassword("alice", "S3cret"))


def token(_folder: Path) -> Case:
    """One secret for all."""
    return Case('authorization { token: "s3cret" }', Token("s3cret"), Token("guess"))


def nkey(_folder: Path) -> Case:
    """A key pair, of which the server knows the public half."""
    keys = Keys.new()
    settings = f"authorization {{ users: [ {{ nkey: {keys.public} }} ] }}"
    return Case(settings, NkeySeed(keys.seed), NkeySeed(Keys.new().seed))


def credentials_file(folder: Path) -> Case:
    """A token that an account has signed, and the key it is for; wrong is a token with somebody else's key."""
    operator = Operator()
    operator.write_credentials(folder / "right.creds")
    operator.write_credentials(folder / "wrong.creds", key=Keys.new())
    return Case(operator.settings, CredentialsFile(folder / "right.creds"), CredentialsFile(folder / "wrong.creds"))


def strangers_file(folder: Path) -> Case:
    """As before; wrong is a token that an account of another operator has signed."""
    operator = Operator()
    operator.write_credentials(folder / "right.creds")
    Operator().write_credentials(folder / "wrong.creds")
    return Case(operator.settings, CredentialsFile(folder / "right.creds"), CredentialsFile(folder / "wrong.creds"))


KINDS = [password, token, nkey, credentials_file, strangers_file]


async def assert_works(connection: Connection) -> None:
    """What is asked is answered."""
    async with connection.listen("ask", lambda message: connection.publish(message.reply, b"answer")):
        assert (await connection.request("ask", timeout=10)).payload == b"answer"


@pytest.mark.parametrize("kind", KINDS)
async def test_who_shows_the_right_credentials_is_let_in_again_and_again(
    kind: Callable[[Path], Case], tmp_path: Path
) -> None:
    """At first, and by a server that was started anew, with another challenge to sign."""
    case = kind(tmp_path)
    with running(tmp_path / "server", case.settings) as server:
        async with open_connection([server.url], attrs.evolve(QUICK, credentials=case.right)) as connection:
            assert connection.server.auth_required
            await assert_works(connection)
            server.kill()
            await connection.wait_state(ConnectionState.RECONNECTING)
            server.start()
            assert await connection.wait_connects(1) == 2
            await assert_works(connection)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_shows_the_wrong_credentials_is_told_at_once(kind: Callable[[Path], Case], tmp_path: Path) -> None:
    """One try, for another would be as wrong; the error names the server and its reason, and no secret."""
    case = kind(tmp_path)
    with running(tmp_path / "server", case.settings) as server:
        with pytest.raises(AuthorizationFailed) as caught:
            async with open_connection([server.url], attrs.evolve(QUICK, credentials=case.wrong)):
                pass
        tries = (tmp_path / "server" / "log").read_text().count("authentication error")
    assert caught.value.reasons == {server.url: "Authorization Violation"}
    assert "credentials were refused" in str(caught.value)
    assert "S3cret" not in str(caught.value)
    assert tries == 1


async def test_who_shows_nothing_is_refused_as_who_shows_wrong_things(tmp_path: Path) -> None:
    """Credentials that are missing are wrong credentials."""
    refused = pytest.raises(AuthorizationFailed, match="Authorization Violation")
    with running(tmp_path, password(tmp_path).settings) as server, refused:
        async with open_connection([server.url], QUICK):
            pass


async def test_credentials_in_the_url_are_shown_to_that_server(tmp_path: Path) -> None:
    """They take precedence over those of the options, and are seen in no repr."""
    with running(tmp_path, password(tmp_path).settings) as server:
        url = server.url.replace("nats://", "nats://alice:s3cret@")
        async with open_connection([url], attrs.evolve(QUICK, credentials=Token("wrong"))) as connection:
            await assert_works(connection)
            assert "s3cret" not in repr(connection)


async def test_refusing_server_is_no_reason_to_leave_out_the_next(tmp_path: Path) -> None:
    """Of several, one that lets us in suffices."""
    with running(tmp_path / "closed", token(tmp_path).settings) as closed, running(tmp_path / "open") as opened:
        for _ in range(4):  # the order is random
            async with open_connection([closed.url, opened.url], QUICK) as connection:
                await assert_works(connection)


async def test_server_that_starts_late_is_waited_for_though_another_one_refuses(tmp_path: Path) -> None:
    """The first connect ends at once only where all refuse."""
    options = attrs.evolve(QUICK, connect_attempts=1000)
    with running(tmp_path / "closed", token(tmp_path).settings) as closed, running(tmp_path / "open") as opened:
        log = tmp_path / "closed" / "log"
        opened.kill()

        async def start_late() -> None:
            await until(lambda: log.read_text().count("authentication error") > 1)
            opened.start()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_late)
            with trio.fail_after(60):
                async with open_connection([closed.url, opened.url], options) as connection:
                    await assert_works(connection)


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
async def test_error_of_the_first_connect_names_each_server_and_its_problem(tmp_path: Path, *, stays: bool) -> None:
    """That one has refused us is said, though it may be gone in the last round."""
    dead, told = "nats://127.0.0.1:1", 0

    async def refuse(client: Client) -> None:
        nonlocal told
        told += 1
        if told == 1 or stays:
            await client.say(Info(INFO))
            await client.receive()
            await client.say(Error("Authorization Violation"))
        await client.stream.aclose()

    async with open_scripted(refuse) as url:
        with pytest.raises(AuthorizationFailed) as caught:
            async with open_connection([dead, url], attrs.evolve(QUICK, connect_attempts=2)):
                pass
    assert told == 2
    assert caught.value.refused_by == {url}
    assert caught.value.reasons[url] == "Authorization Violation"
    assert "refused" in caught.value.reasons[dead]
    said = f"the NATS credentials were refused: {url}: Authorization Violation; and no other server could be reached: {dead}: "
    assert str(caught.value).startswith(said)


async def test_refusals_after_the_first_connect_are_lived_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server throws us out and refuses us, again and again; once it knows us again, all is as it was."""
    case, log = password(tmp_path), tmp_path / "log"
    with running(tmp_path, case.settings) as server:
        async with (
            open_connection([server.url], attrs.evolve(QUICK, credentials=case.right)) as connection,
            connection.subscribe("news") as news,
        ):
            server.reload('authorization { user: alice, password: "another" }')
            await until(lambda: log.read_text().count("authentication error") > 3)
            assert connection.state is ConnectionState.RECONNECTING
            server.reload(case.settings)
            assert await connection.wait_connects(1) == 2
            connection.publish("news", b"1")
            assert (await news.receive()).payload == b"1"
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == len(set(errors)) == 1
    assert "Authorization Violation" in errors[0]


async def test_renewed_credentials_file_is_used_after_refusals(tmp_path: Path) -> None:
    """However late it is renewed: the file is read again for each attempt."""
    operator, path = Operator(), tmp_path / "user.creds"
    operator.write_credentials(path, expires_in=2)
    with running(tmp_path / "server", operator.settings) as server:
        options = attrs.evolve(QUICK, credentials=CredentialsFile(path))
        async with open_connection([server.url], options) as connection:
            log = tmp_path / "server" / "log"
            await until(lambda: log.read_text().count("authentication error") > 2)
            refused_after = connection.connects
            operator.write_credentials(path)
            assert await connection.wait_connects(refused_after) == refused_after + 1
            await assert_works(connection)


async def test_renewed_credentials_file_is_used_when_the_old_token_expires(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server ends the connection at that second; the file, read again, opens the next."""
    operator, path = Operator(), tmp_path / "user.creds"
    operator.write_credentials(path, expires_in=2)
    with running(tmp_path / "server", operator.settings) as server:
        options = attrs.evolve(QUICK, credentials=CredentialsFile(path))
        async with open_connection([server.url], options) as connection:
            operator.write_credentials(path)
            assert await connection.wait_connects(1) == 2
            await assert_works(connection)
    assert "User Authentication Expired" in caplog.text


# --- What a user may do ------------------------------------------------------------------------

PERMISSIONS = """authorization { users: [ { user: alice, password: pw, permissions: {
    publish: { allow: ["open.>", "$JS.>"] }, subscribe: { allow: ["open.>", "_INBOX.>", "shared members"] }
} } ] }"""
NO_INBOX = PERMISSIONS.replace('"_INBOX.>", ', "")
ALICE = attrs.evolve(QUICK, credentials=UserPassword("alice", "pw"))


async def test_forbidden_request_is_a_typed_error(tmp_path: Path) -> None:
    """With operation and subject, at once, and only for whoever asked."""
    with running(tmp_path, PERMISSIONS) as server:
        async with open_connection([server.url], ALICE) as connection:
            with pytest.raises(PermissionDenied, match=r"publish 'secret\.a'") as caught:
                await connection.request("secret.a", timeout=10)
            assert (caught.value.operation, caught.value.subject) == ("publish", "secret.a")
            await assert_allowed(connection)
            assert connection.connects == 1


async def assert_allowed(connection: Connection) -> None:
    """What is allowed works."""
    async with connection.subscribe("open.a") as messages:
        connection.publish("open.a", b"1")
        assert (await messages.receive()).payload == b"1"


@pytest.mark.parametrize(("subject", "queue"), [("secret.>", ""), ("shared", ""), ("shared", "others")])
async def test_forbidden_subscription_is_a_typed_error(subject: str, queue: str, tmp_path: Path) -> None:
    """Told when it is made; a permission can be for one queue group alone."""
    with running(tmp_path, PERMISSIONS) as server:
        async with open_connection([server.url], ALICE) as connection:
            with pytest.raises(PermissionDenied) as caught:
                async with connection.subscribe(subject, queue=queue):
                    pass
            assert (caught.value.operation, caught.value.subject) == ("subscribe", subject)
            with pytest.raises(PermissionDenied):
                async with connection.listen(subject, lambda _message: None, queue=queue):
                    pass
            async with connection.subscribe("shared", queue="members"):
                await assert_allowed(connection)
            assert connection.statistics().subscriptions == 0


async def test_forbidden_inbox_fails_every_request_with_that(tmp_path: Path) -> None:
    """No answer could come, so nothing is asked; another prefix for the inbox is the remedy."""
    with running(tmp_path, NO_INBOX) as server:
        async with open_connection([server.url], ALICE) as connection:
            await connection.flush()
            for _ in range(2):
                with pytest.raises(PermissionDenied) as caught:
                    await connection.request("open.a", timeout=10)
                assert caught.value.operation == "subscribe"
                assert caught.value.subject.startswith("_INBOX.")
        async with open_connection([server.url], attrs.evolve(ALICE, inbox_prefix="open.answers")) as connection:
            with pytest.raises(NoResponders):
                await connection.request("open.a", timeout=10)


async def test_forbidden_message_is_counted_and_nothing_else_suffers(tmp_path: Path) -> None:
    """Who publishes is not told, as it does not wait; the statistics and the log are."""
    with running(tmp_path, PERMISSIONS) as server:
        async with open_connection([server.url], ALICE) as connection:
            connection.publish("secret.a", b"1")
            await connection.flush()
            assert connection.statistics().server_errors == 1
            await assert_allowed(connection)


async def test_permission_that_is_taken_away_ends_the_reader(tmp_path: Path) -> None:
    """The server tells; who reads gets the error, and what was received before can still be read."""
    with running(tmp_path, PERMISSIONS) as server:
        async with open_connection([server.url], ALICE) as connection, connection.subscribe("open.a") as messages:
            connection.publish("open.a", b"1")
            await connection.flush()
            server.reload(PERMISSIONS.replace('subscribe: { allow: ["open.>",', "subscribe: { allow: ["))
            assert (await messages.receive()).payload == b"1"
            with pytest.raises(PermissionDenied, match=r"subscribe 'open\.a'"):
                await messages.receive()
            assert connection.state is ConnectionState.CONNECTED


async def test_permissions_of_a_token_hold_as_those_of_a_configuration(tmp_path: Path) -> None:
    """Whoever granted them, a violation looks the same."""
    operator, path = Operator(), tmp_path / "user.creds"
    operator.write_credentials(path, publish=["open.>"])
    with running(tmp_path / "server", operator.settings) as server:
        options = attrs.evolve(QUICK, credentials=CredentialsFile(path))
        async with open_connection([server.url], options) as connection:
            await assert_allowed(connection)
            with pytest.raises(PermissionDenied, match=r"publish 'secret\.a'"):
                await connection.request("secret.a", timeout=10)
