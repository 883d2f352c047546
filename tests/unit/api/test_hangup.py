"""Detection of a disconnected client."""

import socket

from windrow.api.http.hangup import has_hung_up


def test_a_client_has_hung_up_once_it_closes_its_end() -> None:
    here, there = socket.socketpair()
    with here:
        assert not has_hung_up(here)
        there.close()
        assert has_hung_up(here)


def test_the_check_consumes_no_data_and_keeps_the_timeout() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(7)
        there.sendall(b"next")
        assert not has_hung_up(here)
        assert here.gettimeout() == 7
        assert here.recv(10) == b"next"


def test_data_sent_before_the_hangup_hides_it() -> None:
    here, there = socket.socketpair()
    with here:
        there.sendall(b"next")
        there.close()
        assert not has_hung_up(here)
        here.recv(10)
        assert has_hung_up(here)
