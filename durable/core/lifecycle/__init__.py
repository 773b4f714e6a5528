"""One file a verb: what it needs to know, and what it decides."""
