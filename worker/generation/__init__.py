"""Generation: the engine whose rows change at every step. `engine` holds it; `scheduler.core.continuous` decides."""
