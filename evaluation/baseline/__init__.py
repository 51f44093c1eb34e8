"""Simple methods that need no network."""
