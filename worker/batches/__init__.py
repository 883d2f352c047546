"""The batch loop: claim, prepare, plan, forward, finish."""
