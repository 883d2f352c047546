"""``windrow bench``: measures Windrow on this machine, with users' own models and servers."""
