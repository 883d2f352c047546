"""Recorded runs, fitted costs, and the figures of a report."""
