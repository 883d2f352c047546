"""Reports of the laboratory as tables, charts and pages."""
