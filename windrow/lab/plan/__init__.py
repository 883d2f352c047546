"""The capacity planner: searches settings and device counts with the simulator."""
