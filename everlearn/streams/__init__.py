"""How rows arrive: functions from rows to streams of experiences. Nothing is loaded before it is learned."""

from everlearn.streams.arrivals import blurry, by_class, by_domain, by_task, by_time
from everlearn.streams.bounds import cumulative, joint
from everlearn.streams.experience import Experience, Stream
from everlearn.streams.mnist360 import mnist_360
from everlearn.streams.permuted import permuted
from everlearn.streams.rotated import rotated

__all__ = [
    "Experience",
    "Stream",
    "blurry",
    "by_class",
    "by_domain",
    "by_task",
    "by_time",
    "cumulative",
    "joint",
    "mnist_360",
    "permuted",
    "rotated",
]
