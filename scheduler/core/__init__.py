"""The pure core: decisions as values. Standard library only; no clock, no I/O; time arrives as ``now_s``."""
