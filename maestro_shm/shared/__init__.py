"""The shared store: one server process that writes, memory-mapped files that everyone reads."""
