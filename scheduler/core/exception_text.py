"""`describe_exception`: the text of an unexpected exception in a log."""

from __future__ import annotations

import traceback

FRAMES = 8


def describe_exception(error: BaseException) -> str:
    """Return the type and the stack of an exception on one line, innermost frame first.

    The message is left out, because it may quote an input.
    """
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = (f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = f"{type(error).__name__} at {' < '.join(places) or 'an unknown place'}"
    cause = error.__cause__
    return text if cause is None else f"{text}, caused by {type(cause).__name__}"
