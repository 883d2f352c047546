"""What a log may say of an exception that nobody expected."""

from __future__ import annotations

import traceback

FRAMES = 8


def describe_exception(error: BaseException) -> str:
    """Its type and where it was raised, innermost first, on one line, and not its message, which may quote an input."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = (f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = f"{type(error).__name__} at {' < '.join(places) or 'no known place'}"
    cause = error.__cause__
    return text if cause is None else f"{text}, caused by {type(cause).__name__}"
