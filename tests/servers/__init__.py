"""Servers of others, played by a real process."""
