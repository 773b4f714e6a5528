"""Programs that use durable the way its users do; each folder or file is one story."""
