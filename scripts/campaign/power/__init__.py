"""Losses of power in simulation: lives of a store are recorded, and each state is tried that a disk may be left in."""
