"""``windrow bench``: what Windrow does on this machine, each figure beside a bound or a peer of the same run."""
