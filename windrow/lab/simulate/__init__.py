"""The simulator: the decisions of the worker on a virtual clock."""
