from xenflow_server.acks import AckMap


def test_numbers_are_mapped_and_cumulative() -> None:
    acks = AckMap()
    acks.received(7)
    acks.sent(3)
    acks.received(9)
    acks.sent(4)
    assert acks.installed(2) is None
    assert acks.installed(3) == 7
    assert acks.installed(3) is None
    assert acks.installed(4) == 9
    assert acks.acked == 9


def test_what_changed_nothing_is_reached_with_what_is_on_its_way() -> None:
    acks = AckMap()
    acks.received(1)
    acks.sent(1)
    acks.received(2)
    assert acks.unchanged(1) is None
    assert acks.installed(1) == 2
    acks.received(3)
    assert acks.unchanged(1) == 3


def test_nothing_is_reached_while_the_app_is_away() -> None:
    acks = AckMap()
    acks.received(1)
    acks.sent(1)
    assert acks.installed(1) == 1
    acks.disconnected()
    acks.received(2)
    assert acks.unchanged(1) is None
    acks.sent(5)
    assert acks.installed(5) == 2


def test_a_new_session_gets_none_of_the_old_numbers() -> None:
    acks = AckMap()
    acks.received(50)
    acks.sent(3)
    acks.restart()
    assert acks.installed(3) is None
    acks.received(2)
    assert acks.unchanged(3) == 2
