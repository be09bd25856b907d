"""Stores that are truncated and compacted again and again, while processes are killed."""
