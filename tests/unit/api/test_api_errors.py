"""Every error class has an entry in the table, and becomes a problem document."""

import pytest
from flask import Flask
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ResponseError

from windrow import errors as core
from windrow.api.http import errors
from windrow.api.http.responses import whole_seconds


def error_classes(root: type[core.WindrowError]) -> list[type[core.WindrowError]]:
    return [root, *(subclass for kind in root.__subclasses__() for subclass in error_classes(kind))]


def answer(error: Exception) -> object:
    app = Flask("test")
    errors.register(app)

    @app.get("/")
    def fail() -> str:
        raise error

    return app.test_client().get("/")


def test_every_error_class_has_an_entry() -> None:
    tree = {kind for kind in error_classes(core.WindrowError) if kind.__module__ == core.__name__}
    assert tree == set(errors.ERRORS)


def test_exactly_429_and_503_have_retry_after() -> None:
    with_header = {kind for kind, entry in errors.ERRORS.items() if entry.retry_after_s is not None}
    assert with_header == {kind for kind, entry in errors.ERRORS.items() if entry.status in (429, 503)}


@pytest.mark.parametrize("kind", sorted(errors.ERRORS, key=lambda kind: kind.__name__))
def test_every_error_is_answered_with_its_status_code_and_detail(kind: type[core.WindrowError]) -> None:
    response = answer(kind("what was wrong"))
    entry = errors.ERRORS[kind]
    assert response.status_code == entry.status
    assert response.content_type == "application/problem+json"
    assert response.json == {
        "type": f"urn:windrow:error:{kind.code}",
        "title": entry.title,
        "status": entry.status,
        "detail": "what was wrong",
        "code": kind.code,
    }
    assert ("Retry-After" in response.headers) == (entry.retry_after_s is not None)


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, "1"), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (90, "90")]
)
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float | None, header: str) -> None:
    assert whole_seconds(seconds) == header


def test_a_full_queue_has_its_own_retry_after() -> None:
    assert answer(core.QueueFull("full", retry_after_s=7.2)).headers["Retry-After"] == "8"


@pytest.mark.parametrize("error", [BusyLoadingError("loading"), OutOfMemoryError("OOM command not allowed")])
def test_an_unavailable_redis_is_503(error: Exception) -> None:
    response = answer(error)
    assert response.status_code == 503
    assert response.json["code"] == "redis_unavailable"


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'. script: f00, on @user_script:72."),
        ResponseError("OOM command not allowed when used memory > 'maxmemory'."),
        ResponseError(
            "Error running script (call to f_00): @user_script:72: -OOM command not allowed when used memory"
        ),
    ],
    ids=str,
)
def test_a_redis_without_memory_is_503_with_that_reason(error: Exception) -> None:
    response = answer(error)
    assert (response.status_code, response.json["code"]) == (503, "redis_unavailable")
    assert "memory is full" in response.json["detail"]
    assert "Retry-After" in response.headers


def test_an_unauthorized_client_gets_a_challenge() -> None:
    response = answer(core.Unauthorized("no key"))
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="windrow"')


def test_an_unexpected_error_is_logged_with_its_place_and_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    answer(ZeroDivisionError("secret"))
    assert "GET / failed: ZeroDivisionError at test_api_errors.py:" in caplog.text
    assert "secret" not in caplog.text


def test_an_unexpected_error_is_500_without_a_traceback() -> None:
    response = answer(ZeroDivisionError("secret"))
    assert response.status_code == 500
    assert response.json["code"] == "internal"
    assert b"secret" not in response.data


def test_a_subclass_without_an_entry_gets_that_of_its_base_class() -> None:
    class Narrower(core.InputTooLong):
        pass

    assert errors.http_error(Narrower("x")) == errors.ERRORS[core.InputTooLong]
