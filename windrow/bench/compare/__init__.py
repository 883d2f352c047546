"""``windrow bench compare``: one workload through every strategy."""
