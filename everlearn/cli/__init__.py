"""everlearn in a terminal. Nothing here imports torch before a command needs it."""

import os
import sys


def main() -> None:
    """The program: bad input is one message and exit code 2; everything else is a bug, with its traceback."""
    from everlearn.cli.app import app

    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("EVERLEARN_TRACEBACK"):
            raise
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text("error: ", "bold red"), Text(_said(error)), sep="")
        sys.exit(2)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; see that it exists, and that you may read and write it"
    return str(error)
