"""What each way of updating a model would have cost and given: policies, replayed over the log of a stream."""

from everlearn.backtest.log import Log, read_log
from everlearn.backtest.policy import Policy
from everlearn.backtest.replay import Replay

__all__ = ["Log", "Policy", "Replay", "read_log"]
