"""Batching primitives for teaching. They need only the standard library, except `find_optimal_batch_size`."""
