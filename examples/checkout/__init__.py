"""Two thousand orders placed through two flaky services by an engine that is killed again and again."""
