"""Whole programs under crashes, suspensions and restarts, on virtual time."""
