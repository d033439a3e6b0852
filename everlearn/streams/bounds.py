"""The upper bounds: what could be reached if the past were still there."""

from everlearn.data.rows import Concat
from everlearn.streams.experience import Experience, Stream


def cumulative(stream: Stream) -> list[Experience]:
    """Each experience brings all that came before it along: what retraining on everything would see."""
    experiences = list(stream)
    return [
        Experience(
            each.index,
            Concat([past.train for past in experiences[: place + 1]]),
            each.test,
            _union(experiences[: place + 1]),
            each.task,
        )
        for place, each in enumerate(experiences)
    ]


def joint(stream: Stream) -> list[Experience]:
    """Everything at once, as one experience."""
    experiences = list(stream)
    train, test = Concat([each.train for each in experiences]), Concat([each.test for each in experiences])
    return [Experience(0, train, test, _union(experiences))]


def _union(experiences: list[Experience]) -> tuple[int, ...]:
    """All classes, in the order of their arrival."""
    return tuple(dict.fromkeys(label for each in experiences for label in each.classes))
