"""What is derived from the events, under kills: projections, consumers, transactions."""
