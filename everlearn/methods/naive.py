"""Plain fine-tuning: the lower bound that every method is measured against."""

from dataclasses import dataclass

from everlearn.method import Method


@dataclass
class Naive(Method):
    """Learns the new and keeps nothing of the old."""
