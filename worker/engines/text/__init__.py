"""Engines for models that read a whole text in one forward pass."""
