"""Those who do not belong: bytes, intruders, crowds."""
