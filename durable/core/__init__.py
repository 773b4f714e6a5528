"""What happens, decided without doing it: commands in, transitions and effects out.

Nothing here awaits, reads a clock, draws a random number or does I/O: time, entropy and what the store holds
come in as data.
"""
