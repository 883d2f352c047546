"""JSON schemas that a generated answer can be held to."""
