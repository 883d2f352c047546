"""The data plane without a model."""
