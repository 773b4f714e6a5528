"""What every store keeps, and what SQLite's does besides."""
