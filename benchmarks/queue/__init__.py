"""The queue without a model."""
