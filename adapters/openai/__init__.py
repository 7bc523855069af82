"""Wired by its own commit."""
