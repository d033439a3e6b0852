"""Kills with SIGKILL what works in a child process, again and again, and has it go on."""

import math
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable


def kill_often(go_on: Callable[[str], None], kills: int, seed: int) -> None:
    """Has `go_on(name)` work once undisturbed, as "whole", and then with so many kills at random times.

    The parent has imported everything, and forks. What comes to its end before its time is followed by another one,
    "killed-1", "killed-2" and so on. Prints how often one was killed, and how many there were.
    """
    started = time.monotonic()
    whole = os.fork()
    if not whole:
        go_on("whole")
        os._exit(0)
    assert os.waitpid(whole, 0)[1] == 0
    duration = time.monotonic() - started
    chance = random.Random(seed)
    killed, runs, fresh = 0, 1, True
    while True:
        started = time.monotonic()
        child = os.fork()
        if not child:
            code = 1
            try:  # a child must never return into the parent's loop
                go_on(f"killed-{runs}")
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        status = _ended(child, started + chance.uniform(0.02, duration) if killed < kills else math.inf)
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            killed, fresh = killed + 1, False
        elif status:
            sys.exit(1)
        elif killed < kills:
            if fresh:  # the first one was slower: others kept the machine busy
                duration = time.monotonic() - started
            runs, fresh = runs + 1, True  # it had come to the end before it was killed: the next one begins anew
        else:
            break
    print(killed, runs)


def _ended(child: int, deadline: float) -> int | None:
    """The status of a child that ends before its time; else None."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    return None
