"""``windrow demo``: a stack, and REST traffic that shows how requests are batched."""
