"""Fault injection: kill, disconnect and overload real processes, and check that no request is lost."""
