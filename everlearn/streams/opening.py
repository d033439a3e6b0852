"""Where a stream comes from, as a user says it: a path, or an address."""

import inspect
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from everlearn.data.source import Task
from everlearn.spec import literal, nearest
from everlearn.streams.feed import Feed
from everlearn.streams.folder_feed import FolderFeed
from everlearn.streams.kafka_feed import KafkaFeed
from everlearn.streams.layout import Layout
from everlearn.streams.nats_feed import NatsFeed
from everlearn.streams.redis_feed import RedisFeed
from everlearn.streams.table_feed import table_feed

SERVERS: dict[str, Callable[..., Feed]] = {
    "redis": RedisFeed,
    "rediss": RedisFeed,
    "nats": NatsFeed,
    "tls": NatsFeed,
    "kafka": KafkaFeed,
}
"""By the scheme of their addresses."""
LAYOUT = ("label", "id", "time", "features", "texts", "task")
_QUERY = re.compile(r"[\w.]+=[^&@]*(&[\w.]+=[^&@]*)*")


def open_feed(
    text: str | Path,
    *,
    label: str | None = None,
    id: str | None = None,  # noqa: A002 (the name of the column)
    time: str | None = None,
    features: Sequence[str] | None = None,
    texts: Sequence[str] = (),
    task: Task | None = None,
    **options: Any,
) -> Feed:
    """The feed of a table, of a folder of tables, or of `redis://`, `nats://`, `kafka://` with HOST:PORT/STREAM.

    `label`, `id` and `time` name columns, `features` the fields and their order, `texts` those columns of a CSV file
    that are no numbers even if they look so. `task` makes labels names of classes, or numbers. Further options depend
    on the source: `follow` (a file goes on growing, a folder filling; a server's stream is followed unless it is
    False), `group`, `seed`, `database`, `partition`, `settings`. Those of a server may stand behind its address, as in
    `kafka://HOST/TOPIC?partition=all&group=readers`; a name with a dot in it is one of the `settings`.

    Raises a ValueError for what it does not know, with the nearest name; a FileNotFoundError; an ImportError that
    names the extra to be installed.
    """
    text = str(text)
    columns = (features,) if isinstance(features, str) else features
    layout = Layout(label, id, time, None if columns is None else tuple(columns), tuple(texts), task)
    scheme, mark, _ = text.partition("://")
    if mark:
        if scheme not in SERVERS:
            raise ValueError(f"there is no source {scheme}://{nearest(scheme, SERVERS)}; known: {', '.join(SERVERS)}")
        address, asked, query = text.partition("?")
        if asked:
            options = _behind(query, SERVERS[scheme]) | options
        _check(scheme, SERVERS[scheme], options)
        return SERVERS[scheme](address, layout, **options)
    path = Path(text)
    if path.is_dir():
        _check("a folder", FolderFeed, options)
        return FolderFeed(path, layout, **options)
    if not path.exists():
        there = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, there, n=1)
        raise FileNotFoundError(f"there is no {path}" + (f"; did you mean {path.parent / close[0]}?" if close else ""))
    _check("a file", table_feed, options)
    return table_feed(path, layout, **options)


def _behind(query: str, make: Callable[..., Feed]) -> dict[str, Any]:
    """The options that stand behind an address."""
    if not _QUERY.fullmatch(query):  # which is not said, as it may be a part of a password
        raise ValueError(
            "behind the ? of an address stand options, as in ?group=readers&partition=0; in it, ? is %3F, @ is %40"
        )
    kinds = {name: each.annotation for name, each in inspect.signature(make).parameters.items()}
    options: dict[str, Any] = {}
    for name, _, text in (part.partition("=") for part in query.split("&")):
        value = unquote(text)
        if "." in name:
            options.setdefault("settings", {})[name] = value
            continue
        options[name] = value if kinds.get(name) is str else literal(value)
        if kinds.get(name) in (int, bool) and type(options[name]) is not kinds[name]:
            kind = "a whole number" if kinds[name] is int else "true or false"
            raise ValueError(f"the option {name} must be {kind}, but is {value!r}")
    return options


def _check(what: str, make: Callable[..., Feed], options: dict[str, Any]) -> None:
    """A ValueError for an option that this source has not."""
    known = [
        name for name, each in inspect.signature(make).parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            every = [*LAYOUT, *known]
            raise ValueError(f"{what} has no option {name!r}{nearest(name, every)}; there are {', '.join(every)}")
