"""A real program on a real file, killed with SIGKILL and started again."""
