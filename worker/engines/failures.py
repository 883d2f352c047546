"""What an exception of a forward pass means for its requests and for the process."""

from __future__ import annotations

from windrow.errors import ModelFailed, OutOfMemory
from windrow.scheduler.core.outcomes import Failed


def is_sticky(error: Exception) -> bool:
    """Whether the device accepts no more work after ``error``.

    The process then has to end, and its requests are requeued when their leases expire. The class is compared by name,
    because this module is imported before torch.
    """
    return type(error).__name__ == "AcceleratorError"


def failure_of(error: Exception) -> Failed:
    """Return the outcome of a request whose batch of one raised ``error``."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failed(OutOfMemory("the device ran out of memory on this input alone; send a shorter one"))
    return Failed(ModelFailed(f"the model raised {type(error).__name__} on this input"))
