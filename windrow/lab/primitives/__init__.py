"""Batching primitives for study, on the standard library only."""
