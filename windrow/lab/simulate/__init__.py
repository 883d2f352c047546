"""The simulator: the worker's decisions on a virtual clock."""
