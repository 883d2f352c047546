"""The laboratory at the command line: reports, plots, and what the simulator is compared with."""
