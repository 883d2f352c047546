"""``windrow demo``: the stack, and traffic through REST that shows how requests become batches."""
