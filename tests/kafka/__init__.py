"""Subscriptions, over the wire: librdkafka's mock broker anywhere, and a real Apache Kafka where there is Java."""
