"""Kafka: each record of a topic becomes an invocation. A client library is imported once something is read."""
