"""Python's garbage collector in a process that holds models."""

from __future__ import annotations

import gc


def freeze_loaded_objects() -> None:
    """Collect what is left over, and let the collector pass over everything else from now on.

    To be called when models have been loaded. Modules and models are 400,000 objects, or a million where torch has
    compiled: a full collection of them stops every thread for 0.2 to 0.6 s, and thousands of requests a second bring
    one about every other second. What is passed over ends as before when nobody refers to it any more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
