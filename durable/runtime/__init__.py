"""What acts: it takes commands, has them settled, commits, and runs handlers."""
