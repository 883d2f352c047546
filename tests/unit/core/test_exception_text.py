"""Exception descriptions for logs name the type and the stack, and never contain the message."""

import re

from windrow.scheduler.core.exception_text import describe_exception


def raised(cause: Exception | None = None) -> Exception:
    try:
        raise ValueError("cannot read 'my secret'") from cause
    except ValueError as error:
        return error


def test_a_description_names_the_type_and_the_place_on_one_line() -> None:
    assert re.fullmatch(r"ValueError at test_exception_text.py:\d+ raised", describe_exception(raised()))


def test_a_cause_is_named_by_its_type() -> None:
    description = describe_exception(raised(KeyError("my secret")))
    assert description.endswith(", caused by KeyError")
    assert "secret" not in description


def test_the_innermost_frame_is_named_first() -> None:
    def inner() -> None:
        raise KeyError("my secret")

    try:
        inner()
    except KeyError as error:
        description = describe_exception(error)
    assert re.fullmatch(
        r"KeyError at test_exception_text.py:\d+ inner < test_exception_text.py:\d+ test_the_inner\w+", description
    )


def test_an_exception_that_was_never_raised_has_no_frames() -> None:
    assert describe_exception(ValueError("my secret")) == "ValueError at an unknown place"
