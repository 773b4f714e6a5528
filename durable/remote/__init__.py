"""An engine reached from another process: through the socket beside its file, or over HTTP."""
