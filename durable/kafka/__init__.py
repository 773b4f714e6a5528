"""Kafka: each record of a topic becomes an invocation. The client library is imported once something is read."""
