"""Engines: one file a kind of model. `base` holds the interface, `loading` makes one from its settings."""
