"""The HTTP ingress: what clients ask."""
