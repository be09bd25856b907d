"""Servers, workers and creators that are killed, and what is left of them."""
