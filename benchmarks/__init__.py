"""What the shared store costs beside its rivals on this machine: `python -m benchmarks.run`, or `scripts/bench`."""
