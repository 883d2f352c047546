"""Faults on purpose: real processes are killed, cut off and overloaded, and a checker looks for what was lost."""
