"""What it costs, and what the same rows cost when bare `sqlite3` writes them. `python -m benchmarks`."""
