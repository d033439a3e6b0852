"""everlearn in a terminal. Nothing here imports torch before a command needs it."""

import os
import sys


def main() -> None:
    """The program: bad input is one message and exit code 2; everything else is a bug, with its traceback."""
    from everlearn.cli.app import app  # noqa: PLC0415

    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("EVERLEARN_TRACEBACK"):
            raise
        from rich.console import Console  # noqa: PLC0415

        Console(stderr=True, soft_wrap=True).print("[bold red]error:[/]", _said(error), markup=True, highlight=False)
        sys.exit(2)


def _said(error: Exception) -> str:
    import errno  # noqa: PLC0415

    from rich.markup import escape  # noqa: PLC0415

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return escape(
            f"the disk is full ({error}); nothing was lost: the last checkpoint is whole. Free some space, then go "
            "on with everlearn resume"
        )
    return escape(str(error))
