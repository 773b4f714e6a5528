"""Several worker processes on one file, killed in turn: see README.md."""
