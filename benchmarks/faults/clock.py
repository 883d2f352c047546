"""Shifts the time of day of a process.

This replaces every function with which Python code reads the time of day, before other modules are imported. Monotonic
clocks stay right, as on a machine whose clock was set wrong. libfaketime could do the same, but is under the GPL.
"""

from __future__ import annotations

import datetime as datetime_module
import os
import time
from typing import Any

#: Environment variable with the shift in seconds; positive is ahead.
SHIFT_VARIABLE = "FAULTS_CLOCK_SHIFT_S"


def shift_clock(shift_s: float) -> None:
    """Shift the time of day of this process by ``shift_s``, for modules that are imported after this call."""
    true_time, true_time_ns, true_datetime = time.time, time.time_ns, datetime_module.datetime
    true_gmtime, true_localtime = time.gmtime, time.localtime
    by = datetime_module.timedelta(seconds=shift_s)

    class AnyDatetime(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, true_datetime)

    class Shifted(true_datetime, metaclass=AnyDatetime):  # type: ignore[valid-type,misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.now(tz) + by

        @classmethod
        def utcnow(cls) -> Any:
            return true_datetime.utcnow() + by

        @classmethod
        def today(cls) -> Any:
            return true_datetime.today() + by

    replaced: dict[str, Any] = {
        "time": lambda: true_time() + shift_s,
        "time_ns": lambda: true_time_ns() + int(shift_s * 1e9),
        "gmtime": lambda at=None: true_gmtime(true_time() + shift_s if at is None else at),
        "localtime": lambda at=None: true_localtime(true_time() + shift_s if at is None else at),
    }
    for name, function in replaced.items():
        setattr(time, name, function)
    datetime_module.datetime = Shifted  # type: ignore[misc]


def shift_from_environ() -> None:
    """Shift the clock by the number of seconds in `SHIFT_VARIABLE`, if it is set."""
    shift_s = float(os.environ.get(SHIFT_VARIABLE, "0"))
    if shift_s:
        shift_clock(shift_s)
