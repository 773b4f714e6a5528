"""The command line: in this process, in a pseudo-terminal, and as a program of its own."""
