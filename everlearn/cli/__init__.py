"""everlearn in a terminal. Nothing here imports torch before a command needs it."""

import io
import os
import sys


def main() -> None:
    """The program: bad input is one message and exit code 2; everything else is a bug, with its traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file or a terminal that has no arrow ends no run

    try:
        from everlearn.cli.app import app

        app()
    except KeyboardInterrupt:  # before typer hears it
        sys.exit(130)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if os.environ.get("EVERLEARN_TRACEBACK") or not _is_for_the_user(error):
            raise
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text("error: ", "bold red"), Text(_said(error)), sep="")
        sys.exit(2)


def _is_for_the_user(error: Exception) -> bool:
    """Whether somebody who uses the program can do something about it."""
    missing = isinstance(error, ImportError) and "pip install 'everlearn[" in str(error)
    return missing or isinstance(error, ValueError | OSError) or _no_room(error)


def _no_room(error: Exception) -> bool:
    """Whether memory ran out, here or on a device."""
    on_a_device = type(error).__name__ == "OutOfMemoryError"  # of torch, which is not imported for this
    return isinstance(error, MemoryError) or on_a_device or "can't allocate memory" in str(error)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; see that it exists, and that you may read and write it"
    if _no_room(error):
        what = str(error).partition("\n")[0]
        return (
            f"there is not enough memory{f' ({what})' if what else ''}; take less at a time: --accumulate, a smaller "
            "--batch-size or --size, or fewer rows"
        )
    return str(error)
