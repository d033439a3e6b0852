"""`everlearn stream`: rows are answered and learned as they come. Nothing here imports torch before it is needed."""

import signal
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from everlearn.online.settings import HELP, TYPES, Settings, make_settings, read_settings
from everlearn.stopping import terminating

_PANELS = {
    "What": ("source", "model", "out", "config"),
    "Rows": ("label", "id", "time", "features", "texts", "follow", "duplicates", "bad_rows"),
    "Learning": (
        "task", "method", "optimizer", "batch_size", "scale", "classes", "queue", "publish", "threads", "seed",
    ),
    "Labels that come late": ("label_delay", "expiry", "capacity", "corrections"),
    "Drift": ("drift", "reactions", "cooldown"),
    "What is kept": ("window", "predictions", "checkpoint_rows", "checkpoint_seconds"),
}  # fmt: skip
_METAVARS = {
    **dict.fromkeys(("source", "out"), "PATH"),
    **dict.fromkeys(("label", "id", "time"), "COLUMN"),
    **dict.fromkeys(("features", "texts", "classes"), "A,B,..."),
    **dict.fromkeys(("label_delay", "expiry"), "ROWS|TIME"),
    **dict.fromkeys(("drift", "reactions"), "NAME+NAME"),
    **dict.fromkeys(("model", "method", "optimizer"), "NAME:KEY=VALUE,..."),
    "bad_rows": "NUMBER|SHARE",
    "config": "FILE",
}


def stream(**given: Any) -> None:
    """Learn from a stream that never ends: each row is answered, and learned once its label is there.

    What it comes to stands in OUT/report.html when the stream ends, or the service is stopped.
    """
    with terminating(signal.SIGTERM, signal.SIGINT) as stop:  # what is imported now takes seconds
        from everlearn.cli.live import serve
        from everlearn.online.opening import begin_service

        serve(begin_service(asked(given)), stop)


def go_on(run: Path, bad_rows: str) -> None:
    """What `everlearn resume` does with a stream."""
    with terminating(signal.SIGTERM, signal.SIGINT) as stop:
        from everlearn.cli.live import serve
        from everlearn.cli.show import say
        from everlearn.online.opening import resume_service

        serve(resume_service(run, say, {"bad_rows": bad_rows} if bad_rows else None), stop)


def asked(given: dict[str, Any]) -> Settings:
    """Settings from a file, overruled by flags."""
    flags = {
        name: [item.strip() for part in value for item in part.split(",")] if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if name != "config" and value not in (None, [], ())
    }
    config = given.get("config")
    toml = {name.replace("-", "_"): value for name, value in read_settings(config).items()} if config else {}
    return make_settings(toml | flags, config or "")


def _parameters() -> list[Parameter]:
    parameters = []
    for title, names in _PANELS.items():
        for name in names:
            kind: Any = TYPES.get(name, str)
            kind = list[str] if get_origin(kind) is tuple else kind
            default = Settings.__dataclass_fields__[name].default if name in TYPES else ""
            shown = f" (default: {default})" if default not in ("", (), False, 0) else ""
            option = typer.Option(
                help=HELP.get(name, "A TOML file of settings; flags win.") + shown,
                rich_help_panel=title,
                metavar=_METAVARS.get(name),
                show_default=False,
            )
            annotation = Annotated[kind | None, option]
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


stream.__signature__ = Signature(_parameters())  # type: ignore[attr-defined]
stream.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
