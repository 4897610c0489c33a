"""The HTTP layer: turns requests into calls of `agegender.inference`, and results and exceptions into responses."""
