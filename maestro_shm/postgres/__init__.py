"""The store in a PostgreSQL database: the contract, kept by rows and one function of SQL."""
