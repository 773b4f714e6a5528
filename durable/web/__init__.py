"""What every HTTP surface of an engine stands on: who is let in, how a request is read, how an error is told."""
