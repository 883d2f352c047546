"""The exception hierarchy: the properties that callers may rely on."""

import pytest

from windrow import errors
from windrow.errors import WindrowError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, WindrowError)]
CONCRETE = [error for error in CLASSES if error is not WindrowError]


def test_every_error_has_a_unique_code() -> None:
    codes = [error.code for error in CLASSES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", CLASSES)
def test_codes_are_lower_case_with_underscores(error: type[WindrowError]) -> None:
    assert error.code.replace("_", "").isalpha()
    assert error.code == error.code.lower()


@pytest.mark.parametrize("error", CONCRETE)
def test_every_error_is_documented(error: type[WindrowError]) -> None:
    assert error.__doc__
    assert error.__doc__ != WindrowError.__doc__


def test_only_temporary_errors_are_retryable() -> None:
    assert {error.code for error in CLASSES if error.retryable} == {
        "queue_full", "quota_exceeded", "no_worker", "newer_record", "redis_unavailable", "stopping",
        "upstream_failed",
    }  # fmt: skip


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_carries_its_detail_and_retry_after_s(error: type[WindrowError]) -> None:
    raised = error("what was wrong", retry_after_s=2.5)
    assert (raised.detail, str(raised), raised.retry_after_s) == ("what was wrong", "what was wrong", 2.5)


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_can_be_created_from_its_detail_alone_as_celery_does(error: type[WindrowError]) -> None:
    assert error(*["what was wrong"]).retry_after_s is None
