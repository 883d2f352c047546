"""Looking whether the other end of a connection is still there."""

import socket

from windrow.api.http.hangup import has_hung_up


def test_a_connection_is_there_until_its_other_end_closes() -> None:
    here, there = socket.socketpair()
    with here:
        assert not has_hung_up(here)
        there.close()
        assert has_hung_up(here)


def test_looking_takes_nothing_and_leaves_the_timeout_as_it_was() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(7)
        there.sendall(b"next")
        assert not has_hung_up(here)
        assert here.gettimeout() == 7
        assert here.recv(10) == b"next"


def test_what_was_sent_before_hanging_up_hides_it() -> None:
    here, there = socket.socketpair()
    with here:
        there.sendall(b"next")
        there.close()
        assert not has_hung_up(here)
        here.recv(10)
        assert has_hung_up(here)
