"""What batches and decode steps cost: cost models, CPU cores, and the fit of both to measured times."""
