"""The store in a PostgreSQL database, whose sessions, servers and primaries end at any moment."""
