"""Simulation and planning: the policies of `scheduler.core` on a virtual clock."""
