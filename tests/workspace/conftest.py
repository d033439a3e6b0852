"""A user's files and the program are at hand in these tests."""

from workspace.inputs import everlearn, learn, settings, shop

__all__ = ["everlearn", "learn", "settings", "shop"]
