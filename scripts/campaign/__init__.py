"""The torture campaign: what the store promises, tried some millions of times. Run it by `scripts/torture`.

One file holds one check, in a folder with what it needs, by theme. A check counts what it finds, compares that with its
goal, and shows that it would have found a fault: it plants some, and counts how many of them it catches. All its
choices come from the run's seed.
"""
