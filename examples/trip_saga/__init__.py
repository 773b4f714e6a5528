"""A cancelled trip that unwinds, leaf first, although its process is killed with SIGKILL on the way."""
