"""Task ``embed``: one vector per text.

Input: a string. Cost: its tokens, with the default prompt of the model's files. Output: ``{"embedding": ...}``, an
array or a base64 string, and ``"scale"`` with ``encoding_format: "int8"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from windrow.errors import InvalidInput
from windrow.scheduler.tasks.base import Parameters, Task, string_texts
from windrow.scheduler.tasks.pooling import embedding_width
from windrow.scheduler.tasks.validation import Count


class EmbedParameters(Parameters):
    """Parameters of task embed."""

    dimensions: Count | None = Field(
        None,
        description="Keep only the first N numbers of the vector, normalized again if the model normalizes its "
        "vectors.",
    )
    encoding_format: Literal["float", "base64", "int8"] = Field(
        "float",
        description="float: an array of numbers. base64: a string of little-endian float32. "
        "int8: an array of integers from -127 to 127; multiplied by `scale` they are the vector.",
    )


def require_dimensions(dimensions: int | None, width: int) -> None:
    """Raise `InvalidInput` if ``dimensions`` is greater than the ``width`` of the model's vectors."""
    if dimensions is not None and dimensions > width:
        raise InvalidInput(
            f"parameters.dimensions: takes 1 to {width}, the width of this model's vectors, not {dimensions}"
        )


def _check_model(parameters: EmbedParameters, folder: Path) -> None:
    width = None if parameters.dimensions is None else embedding_width(folder)
    if width is not None:
        require_dimensions(parameters.dimensions, width)


EMBED = Task("embed", EmbedParameters, string_texts("embed"), check_model=_check_model, takes_prompt=True)
