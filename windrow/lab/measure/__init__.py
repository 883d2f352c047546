"""Recorded runs, and the figures of a report."""
