"""Orders from a Kafka topic: see README.md."""
