"""The engine among careless hosts and hostile handlers."""
