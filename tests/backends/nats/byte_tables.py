"""What the two sides of the protocol say, as bytes and as events; and what neither may say."""

from __future__ import annotations

from types import MappingProxyType

from aegis_backends.nats.protocol import (
    Connect,
    Error,
    Event,
    Info,
    Message,
    Ok,
    Peer,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
)

HEAD = b"NATS/1.0\r\nA: 1\r\n\r\n"

# What each side says, in the spelling that we write: read and written from the same table.
SPOKEN: list[tuple[Peer, bytes, Event]] = [
    (Peer.SERVER, b'INFO {"server_id":"S","port":4222}\r\n', Info(MappingProxyType({"server_id": "S", "port": 4222}))),
    (Peer.SERVER, b"MSG a.b 1 0\r\n\r\n", Message("a.b", 1)),
    (Peer.SERVER, b"MSG a.b 17 re.ply 5\r\nhello\r\n", Message("a.b", 17, "re.ply", b"hello")),
    (Peer.SERVER, b"MSG 1 2 3 4\r\n\r\n\r\n\r\n", Message("1", 2, "3", b"\r\n\r\n")),
    (Peer.SERVER, b"HMSG a 1 18 20\r\n" + HEAD + b"hi\r\n", Message("a", 1, "", b"hi", HEAD)),
    (Peer.SERVER, b"HMSG a 1 r 18 18\r\n" + HEAD + b"\r\n", Message("a", 1, "r", b"", HEAD)),
    (Peer.SERVER, b"MSG \xff\xc3\xa4 1 \xfe 1\r\nx\r\n", Message("\udcff\xe4", 1, "\udcfe", b"x")),
    (Peer.SERVER, b"PING\r\n", Ping()),
    (Peer.SERVER, b"PONG\r\n", Pong()),
    (Peer.SERVER, b"+OK\r\n", Ok()),
    (Peer.SERVER, b"-ERR 'Stale Connection'\r\n", Error("Stale Connection")),
    (Peer.CLIENT, b'CONNECT {"verbose":false}\r\n', Connect(MappingProxyType({"verbose": False}))),
    (Peer.CLIENT, b"PUB a 0\r\n\r\n", Publish("a")),
    (Peer.CLIENT, b"PUB a.b re 3\r\nabc\r\n", Publish("a.b", b"abc", "re")),
    (Peer.CLIENT, b"HPUB a 18 18\r\n" + HEAD + b"\r\n", Publish("a", b"", "", HEAD)),
    (Peer.CLIENT, b"HPUB a r 18 21\r\n" + HEAD + b"abc\r\n", Publish("a", b"abc", "r", HEAD)),
    (Peer.CLIENT, b"SUB a.> 9\r\n", Subscribe("a.>", 9)),
    (Peer.CLIENT, b"SUB a.* workers 9\r\n", Subscribe("a.*", 9, "workers")),
    (Peer.CLIENT, b"UNSUB 9\r\n", Unsubscribe(9)),
    (Peer.CLIENT, b"UNSUB 9 5\r\n", Unsubscribe(9, 5)),
    (Peer.CLIENT, b"PING\r\n", Ping()),
    (Peer.CLIENT, b"PONG\r\n", Pong()),
]

# Other spellings of the same, which a peer may use.
ACCEPTED: list[tuple[Peer, bytes, Event]] = [
    (Peer.SERVER, b"msg a 1 2\r\nhi\r\n", Message("a", 1, "", b"hi")),
    (Peer.SERVER, b"MSG  a\t1   re  2\r\nhi\r\n", Message("a", 1, "re", b"hi")),
    (Peer.SERVER, b"HMSG a 1 \t 0 2\r\nhi\r\n", Message("a", 1, "", b"hi")),
    (Peer.SERVER, b"ping \r\n", Ping()),
    (Peer.SERVER, b"-err unquoted\r\n", Error("unquoted")),
    (Peer.SERVER, b"-ERR '\r\n", Error("'")),
    (Peer.SERVER, b"-ERR\r\n", Error("")),
    (Peer.SERVER, b'info\t{"a": [1]} \r\n', Info(MappingProxyType({"a": [1]}))),
    (Peer.CLIENT, b"sub a  q  1 \r\n", Subscribe("a", 1, "q")),
    (Peer.CLIENT, b"Unsub 1\t2\r\n", Unsubscribe(1, 2)),
    (Peer.CLIENT, b"pub  a  1\r\nx\r\n", Publish("a", b"x")),
    (Peer.CLIENT, b"hpub a 0 1\r\nx\r\n", Publish("a", b"x")),
]

MALFORMED: list[tuple[Peer, bytes]] = [
    (Peer.SERVER, b"\r\n"),
    (Peer.SERVER, b"  \r\n"),
    (Peer.SERVER, b"HTTP/1.1 400 Bad Request\r\n"),
    (Peer.SERVER, b"PING\n"),
    (Peer.SERVER, b"PING now\r\n"),
    (Peer.SERVER, b"PUB a 0\r\n\r\n"),
    (Peer.SERVER, b"MSG\r\n"),
    (Peer.SERVER, b"MSG a 1\r\n"),
    (Peer.SERVER, b"MSG a x 1\r\na\r\n"),
    (Peer.SERVER, b"MSG a 1 -1\r\n"),
    (Peer.SERVER, b"MSG a 1 +1\r\na\r\n"),
    (Peer.SERVER, b"MSG a 1 1_0\r\n0123456789\r\n"),
    (Peer.SERVER, b"MSG a 1 99999999999999999999\r\n"),
    (Peer.SERVER, b"MSG a 1 b c 1\r\nx\r\n"),
    (Peer.SERVER, b"MSG a 1 1\r\nabc\r\n"),
    (Peer.SERVER, b"MSG a 1 1\r\na\n\n"),
    (Peer.SERVER, b"MSG a 1 9999999999\r\n"),
    (Peer.SERVER, b"HMSG a 1 5\r\nabcde\r\n"),
    (Peer.SERVER, b"HMSG a 1 5 4\r\nabcd\r\n"),
    (Peer.SERVER, b"HMSG a 1 9999999999 9999999999\r\n"),
    (Peer.SERVER, b"INFO\r\n"),
    (Peer.SERVER, b"INFO nonsense\r\n"),
    (Peer.SERVER, b"INFO []\r\n"),
    (Peer.SERVER, b'INFO {"a":' + b"[" * 100_000 + b"\r\n"),
    (Peer.SERVER, b'INFO {"a":"\xff"}\r\n'),
    (Peer.CLIENT, b"MSG a 1 0\r\n\r\n"),
    (Peer.CLIENT, b"CONNECT 1\r\n"),
    (Peer.CLIENT, b"SUB a\r\n"),
    (Peer.CLIENT, b"SUB a b c 1\r\n"),
    (Peer.CLIENT, b"UNSUB a\r\n"),
    (Peer.CLIENT, b"UNSUB\r\n"),
    (Peer.CLIENT, b"PUB a b c 1\r\nx\r\n"),
    (Peer.CLIENT, b"HPUB a 1\r\nx\r\n"),
]
