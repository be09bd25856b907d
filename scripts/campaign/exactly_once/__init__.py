"""Calls whose replies are lost, and whose outcome is none the less one and the true one."""
