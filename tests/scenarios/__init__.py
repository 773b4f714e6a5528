"""The conformance scenarios: each a small program, run undisturbed and then disturbed in every way there is."""
