"""Engines, which load and run models: one folder per kind of model. `base` documents the interface they implement."""
