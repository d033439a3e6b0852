"""Which methods can work in one chain with prompts."""

from collections.abc import Sequence

from everlearn.methods import METHODS, GrowHead, Replay
from everlearn.methods.prompting import Prompting


def prompted(names: Sequence[str]) -> None:
    """Refuses what does not go with prompts."""
    prompting = [name for name in names if issubclass(METHODS[name], Prompting)]
    if prompting and (
        others := [name for name in names if METHODS[name] not in (METHODS[prompting[0]], GrowHead, Replay)]
    ):
        raise ValueError(
            f"{prompting[0]} leaves the body as it is, and asks it with prompts, of which {', '.join(others)} would "
            f"know nothing; use er in front of it: er+{prompting[0]}"
        )
    if prompting and Replay in [METHODS[name] for name in names[names.index(prompting[0]) :]]:
        raise ValueError(
            f"{prompting[0]} would see the batch before er has joined old rows to it, and not know of which classes "
            f"they are; put er first: er+{prompting[0]}"
        )
