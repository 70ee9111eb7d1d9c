"""Sessions joined in memory: handshake, refusals, deadlines, and any split of the byte stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenflow import wire
from xenflow.errors import Fault, LocalProtocolError, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.limits import Limits
from xenflow.session import TRANSITIONS, Session, State
from xenflow.wire import Ack, Begin, Bye, End, Hello, Message, Ping, Pong, Query, Refused, Role, Update, Welcome

ROUTER, NODE = Identity(Role.ROUTER, "r1"), Identity(Role.NODE, "n1")
HELLO = Hello(wire.VERSION, Role.ROUTER, "r1", 7)
WELCOME = Welcome(wire.VERSION, Role.NODE, "n1", 1000)
LIMITS = Limits(handshake_s=5, frame_s=10, keepalive_s=2, idle_s=10)


def connecting(hello: Hello = HELLO, peer: Identity | None = NODE) -> Session:
    return Session(hello=hello, welcome=None, peer=peer, now=0.0, limits=LIMITS)


def accepting(peer: Identity | None = ROUTER, welcome: Welcome = WELCOME) -> Session:
    return Session(hello=None, welcome=lambda _: welcome, peer=peer, now=0.0, limits=LIMITS)


def joined() -> tuple[Session, Session]:
    client, server = connecting(), accepting()
    assert server.receive(client.start(), 0.0) == []
    assert client.receive(server.output(), 0.0) == []
    assert client.state is server.state is State.OPEN
    return client, server


def farewell(session: Session) -> str:
    """Return the reason in the one Bye that the session wants sent."""
    output = session.output()
    message = wire.decode(output[4:])
    assert isinstance(message, Bye)
    assert len(wire.encode(message)) == len(output)
    return message.reason


def test_two_ends_shake_hands_and_talk() -> None:
    client, server = joined()
    assert server.peer_hello == HELLO
    assert client.peer_welcome == WELCOME
    assert server.receive(client.send(Begin("r1")), 1.0) == [Begin("r1")]
    assert client.receive(server.send(Ack("r1", 3)), 1.0) == [Ack("r1", 3)]
    assert server.output() == b""


def test_a_session_is_one_side_or_the_other() -> None:
    with pytest.raises(LocalProtocolError):
        Session(hello=None, welcome=None, peer=None, now=0.0)
    with pytest.raises(LocalProtocolError):
        Session(hello=HELLO, welcome=lambda _: WELCOME, peer=None, now=0.0)


REFUSED_HELLOS = [
    (Hello(2, Role.ROUTER, "r1"), Fault.VERSION, "version 2"),
    (Hello(wire.VERSION, Role.ROUTER, "r2"), Fault.IDENTITY, "router/r2"),
    (Hello(wire.VERSION, Role.CONTROLLER, "r1"), Fault.IDENTITY, "controller/r1"),
    (Begin("r1"), Fault.SEQUENCE, "Begin instead of a handshake"),
    (WELCOME, Fault.SEQUENCE, "Welcome instead of a handshake"),
]


@pytest.mark.parametrize(("message", "fault", "text"), REFUSED_HELLOS, ids=repr)
def test_a_wrong_hello_is_refused_with_one_clear_bye(message: Message, fault: Fault, text: str) -> None:
    server = accepting()
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        server.receive(wire.encode(message), 0.0)
    assert caught.value.fault is fault
    assert server.state is State.CLOSED
    reason = farewell(server)
    assert text in reason
    assert server.output() == b""
    client = connecting()
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        client.receive(wire.encode(Bye(reason)), 0.0)
    assert caught.value.fault is Fault.REFUSED
    assert client.output() == b""


def test_the_accepting_side_must_be_who_its_certificate_says() -> None:
    client = connecting(peer=Identity(Role.NODE, "n2"))
    with pytest.raises(RemoteProtocolError, match="certificate says node/n2"):
        client.receive(wire.encode(WELCOME), 0.0)


def test_the_program_may_refuse_a_hello() -> None:
    def refuse(hello: Hello) -> Welcome:
        raise RemoteProtocolError(f"{hello.name} does not run here", Fault.IDENTITY)

    server = Session(hello=None, welcome=refuse, peer=ROUTER, now=0.0)
    with pytest.raises(RemoteProtocolError):
        server.receive(wire.encode(HELLO), 0.0)
    assert farewell(server) == "r1 does not run here"


def test_without_a_certificate_the_hello_is_believed() -> None:
    server = accepting(peer=None)
    server.receive(wire.encode(Hello(wire.VERSION, Role.OPERATOR, "root")), 0.0)
    assert server.receive(wire.encode(Query(1, "status")), 0.0) == [Query(1, "status")]


def test_what_a_role_does_not_send_is_refused_on_both_sides() -> None:
    client, server = joined()
    with pytest.raises(LocalProtocolError):
        client.send(Ack("r1", 1))
    with pytest.raises(LocalProtocolError):
        client.send(Bye("close() is for that"))
    with pytest.raises(RemoteProtocolError, match="router does not send Ack") as caught:
        server.receive(wire.encode(Ack("r1", 1)), 0.0)
    assert caught.value.fault is Fault.SEQUENCE


@pytest.mark.parametrize("message", [HELLO, WELCOME], ids=repr)
def test_a_handshake_happens_once(message: Message) -> None:
    _, server = joined()
    with pytest.raises(RemoteProtocolError):
        server.receive(wire.encode(message), 0.0)


def test_who_may_say_what_it_has_refused() -> None:
    assert [role for role, messages in TRANSITIONS.items() if Refused in messages] == [Role.NODE]


def test_every_role_may_say_bye_and_ping() -> None:
    for role in Role:
        assert TRANSITIONS[role][Bye] is State.CLOSED
        assert TRANSITIONS[role][Ping] is TRANSITIONS[role][Pong] is State.OPEN
        assert Hello not in TRANSITIONS[role]


def test_nothing_can_be_sent_before_or_after() -> None:
    client = connecting()
    with pytest.raises(LocalProtocolError):
        client.send(Begin("r1"))
    client, _ = joined()
    client.close("done")
    with pytest.raises(LocalProtocolError):
        client.send(Begin("r1"))


def test_a_frame_that_is_too_big_is_not_sent() -> None:
    client, _ = joined()
    with pytest.raises(LocalProtocolError, match="fit"):
        client.send(Begin("r" * wire.MAX_FRAME_BYTES))


def test_an_oversized_frame_is_refused_at_its_length() -> None:
    _, server = joined()
    assert server.receive((wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big")[:3], 0.0) == []
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive((wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big")[3:], 0.0)
    assert caught.value.fault is Fault.OVERSIZED


def test_before_the_handshake_frames_are_small() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        accepting().receive((LIMITS.handshake_frame_bytes + 1).to_bytes(4, "big"), 0.0)
    assert caught.value.fault is Fault.OVERSIZED


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x92\x03\xa1\xff", b"\x93\x03\xa1a" + b"\x91" * 4000, b"GET / HTTP"])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        accepting().receive(len(body).to_bytes(4, "big") + body, 0.0)
    assert caught.value.fault is Fault.GARBAGE


def test_what_came_before_a_fault_is_not_lost() -> None:
    _, server = joined()
    stream = wire.encode(Begin("r1")) + wire.encode(HELLO) + wire.encode(End("r1", 1))
    assert server.receive(stream, 0.0) == [Begin("r1")]
    assert server.fault is not None
    assert server.state is State.CLOSED
    with pytest.raises(RemoteProtocolError):
        server.receive(b"", 0.0)
    assert "Hello" in farewell(server)


def test_bye_ends_the_session_and_says_why() -> None:
    client, server = joined()
    assert server.receive(client.close("shutting down\x1b[2J\n") + b"more", 0.0) == []
    assert server.state is State.CLOSED
    assert server.bye == "shutting down?[2J?"
    assert server.output() == b""
    assert client.close("again") == b""


def test_no_handshake_in_time() -> None:
    server = accepting()
    assert server.next_deadline() == 5
    assert server.tick(4.9) == b""
    with pytest.raises(RemoteProtocolError) as caught:
        server.tick(5.0)
    assert caught.value.fault is Fault.HANDSHAKE_TIMEOUT
    assert "handshake" in farewell(server)


def test_half_a_frame_and_silence() -> None:
    _, server = joined()
    frame = wire.encode(Begin("r1"))
    for second in range(1, 6):  # a byte now and then does not help
        server.receive(frame[second - 1 : second], float(second))
        server.tick(float(second))
    server.tick(10.9)
    with pytest.raises(RemoteProtocolError) as caught:
        server.tick(11.0)
    assert caught.value.fault is Fault.FRAME_TIMEOUT


def test_a_frame_that_completes_starts_the_next_deadline() -> None:
    _, server = joined()
    frame = wire.encode(Begin("r1"))
    server.receive(frame[:3], 1.0)
    server.receive(frame[3:] + frame[:1], 8.0)
    server.tick(17.9)
    with pytest.raises(RemoteProtocolError, match="half a frame"):
        server.tick(18.0)


def test_silence_is_asked_after_and_then_ended() -> None:
    _, server = joined()
    assert server.next_deadline() == 2
    assert server.tick(1.9) == b""
    assert wire.decode(server.tick(2.0)[4:]) == Ping(1)
    assert server.tick(2.1) == b""
    assert wire.decode(server.tick(4.0)[4:]) == Ping(2)
    with pytest.raises(RemoteProtocolError) as caught:
        server.tick(10.0)
    assert caught.value.fault is Fault.IDLE_TIMEOUT


def test_an_answered_ping_keeps_the_session() -> None:
    client, server = joined()
    for second in range(2, 60, 2):
        assert client.receive(server.tick(float(second)), float(second)) == []
        assert server.receive(client.output(), float(second)) == []
    assert server.state is State.OPEN


def test_a_pong_that_nobody_asked_for() -> None:
    _, server = joined()
    with pytest.raises(RemoteProtocolError):
        server.receive(wire.encode(Pong(1)), 0.0)


def test_while_we_do_not_read_silence_is_not_the_other_sides() -> None:
    _, server = joined()
    server.receive(b"\0", 1.0)
    for second in range(2, 40):
        server.tick(float(second), reading=False)
    server.resume(39.0)
    server.tick(49.0)
    with pytest.raises(RemoteProtocolError):
        server.tick(50.0)


MESSAGES: list[Message] = [
    Begin("r1"),
    Update("r1", 1, [], [(3, bytes(5))]),
    End("r1", 2),
    Ping(9),
    Bye("enough"),
    Pong(5),
    HELLO,
    Ack("r1", 1),
]
STREAMS = st.lists(
    st.one_of(st.sampled_from(MESSAGES).map(wire.encode), st.binary(max_size=8), st.just(b"\0\0\0\1\xc1")), max_size=8
).map(lambda parts: wire.encode(HELLO) + b"".join(parts))


def outcome(chunks: list[bytes]) -> tuple[list[Message], State, str, str, bytes]:
    session = accepting()
    messages: list[Message] = []
    output = b""
    try:
        for chunk in chunks:
            messages += session.receive(chunk, 0.0)
            output += session.output()
    except RemoteProtocolError:
        output += session.output()
    fault = str(session.fault and (session.fault.fault, session.fault.reason))
    return messages, session.state, session.bye, fault, output


@settings(max_examples=300)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=20))
def test_any_split_of_the_stream_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    split = [stream[a:b] for a, b in itertools.pairwise(edges)]
    whole = outcome([stream])
    assert outcome(split) == whole
    assert outcome([stream[i : i + 1] for i in range(len(stream))]) == whole


@given(st.lists(st.binary(max_size=64), max_size=10), st.booleans())
def test_any_bytes_end_in_a_message_or_a_clean_fault(chunks: list[bytes], opened: bool) -> None:
    session = joined()[1] if opened else accepting()
    for chunk in chunks:
        try:
            session.receive(chunk, 1.0)
        except RemoteProtocolError:
            assert session.state is State.CLOSED
            assert session.fault is not None
            assert isinstance(wire.decode(session.output()[4:]), Bye)
            return
