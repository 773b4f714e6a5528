"""`python -m durable` is the console script `durable`."""

from durable.cli import main

if __name__ == "__main__":
    main()
