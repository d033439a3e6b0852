"""How rows arrive: functions from rows to streams of experiences. Nothing is loaded before it is learned."""

from everlearn.streams.arrivals import blurry, by_class, by_domain, by_task, by_time
from everlearn.streams.bounds import cumulative, joint
from everlearn.streams.experience import Experience, Stream

__all__ = ["Experience", "Stream", "blurry", "by_class", "by_domain", "by_task", "by_time", "cumulative", "joint"]
