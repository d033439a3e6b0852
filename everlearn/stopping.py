"""Signals that ask a program to stop. Nothing here needs torch, so they are heard before it is imported."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminating(*signals: signal.Signals) -> Iterator[Callable[[], int]]:
    """Turns the first SIGTERM (or other `signals`) into an answer to "shall we stop?"; a second one acts as ever.

    The answer is the number of the signal, and 0 while there was none.
    """
    asked = 0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = number
        signal.signal(number, before.pop(signal.Signals(number)))

    before = {number: signal.getsignal(number) for number in signals or (signal.SIGTERM,)}
    for number in list(before):
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number, handler in list(before.items()):  # those of signals that came have been put back
            signal.signal(number, handler)


def exit_code(asked: int) -> int:
    """What a program leaves with that saved its work because a signal asked it to.

    Whoever sends SIGTERM wants it to stop, and it did: 0. Ctrl-C is 130, as ever, and so what would follow does not.

    >>> exit_code(signal.SIGTERM), exit_code(signal.SIGINT)
    (0, 130)
    """
    return 128 + asked if asked == signal.SIGINT else 0
