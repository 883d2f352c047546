"""What each pool process of the worker runs: it loads the models, runs the loops, and applies requested changes."""
