"""Which cells of a row are its label, its id, its time and its fields; and rows as records."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from everlearn.data.source import Task
from everlearn.data.tables import TARGETS, nearest
from everlearn.streams.feed import Label, Position, Record

_WHOLE = re.compile(r"-?\d+")
FURTHEST = 1e11
"""Seconds until the year 5138: a number beyond is no seconds, but milliseconds or a code."""


@dataclass(frozen=True)
class Layout:
    """Names of columns. What is None is looked for by its usual name, and need not be there.

    `label` is else "label", or the one of y, target and class that there is, `id` is "id", `time` is "time". All other
    columns are fields; `features` names some, and their order. In text that has no types of its own, as CSV has none,
    a cell that is a number becomes one, as Python reads it; in the columns `texts` it stays what it is.
    """

    label: str | None = None
    id: str | None = None
    time: str | None = None
    features: tuple[str, ...] | None = None
    texts: tuple[str, ...] = ()
    task: Task | None = None
    """What labels are for: names of classes, so that 1.0 is "1", or numbers. None takes them as they come."""

    def over(self, header: Sequence[str], where: str) -> "Columns":
        """What stands where in a table with these columns; a ValueError if one that was named is not there."""
        if "" in header or len(set(header)) < len(header):
            raise ValueError(f"{where}: each column needs a name of its own, but the columns are {list(header)}")
        named = {"label": self.label, "id": self.id, "time": self.time}
        asked = [*named.items(), *(("features", name) for name in self.features or ())]
        for option, name in [*asked, *(("texts", name) for name in self.texts)]:
            if name is not None and name not in header:
                raise ValueError(f"{where} has no column {name!r} for {option}: {nearest(name, header)}")
        try:
            label, row_id, time = self._special(header)
            names = self._fields(header, (label, row_id, time))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return Columns(
            tuple(header),
            header.index(label) if label in header else None,
            header.index(row_id) if row_id in header else None,
            header.index(time) if time in header else None,
            names,
            tuple(map(header.index, names)),
            frozenset(self.texts),
            self.task,
        )

    def record(self, row: Mapping[str, Any], position: Position, default: str, *, typed: bool) -> Record:
        """A row that brings its own names. Raises a ValueError that says what is wrong with it.

        `default` is its id if it has none; `typed` says that texts are texts, even if they look like numbers.
        """
        label, row_id, time = self._special(tuple(row))
        fields = {}
        for name in self._fields(tuple(row), (label, row_id, time)):
            cell = row.get(name)
            if isinstance(cell, str) and not typed and name not in self.texts:
                cell = number_or_text(cell)
            value = plain(cell, name)
            if value is not None:
                fields[name] = value
        answer = row.get(label)
        if isinstance(answer, str) and not typed and label not in self.texts and self.task is None:
            answer = number_or_text(answer)
        return made(fields, answer, row.get(row_id), row.get(time), default, position, self.task)

    def _special(self, names: Sequence[str]) -> tuple[str, str, str]:
        label = self.label
        if label is None:
            usual, *others = TARGETS
            found = [name for name in others if name in names]
            if len(found) > 1 and usual not in names:
                raise ValueError(f"both of {found} are there; name the one that is the label, as in label={found[0]!r}")
            label = found[0] if found and usual not in names else usual
        return label, self.id or "id", self.time or "time"

    def _fields(self, names: Sequence[str], special: tuple[str, ...]) -> tuple[str, ...]:
        if self.features is None:
            return tuple(name for name in names if name not in special)
        if len(set(self.features)) < len(self.features) or special[0] in self.features:
            raise ValueError(
                f"the features must be different columns beside the label {special[0]!r}: {list(self.features)}"
            )
        return self.features


@dataclass(frozen=True)
class Columns:
    """What stands where in the rows of a table."""

    header: tuple[str, ...]
    label: int | None
    id: int | None
    time: int | None
    names: tuple[str, ...]
    """Of the fields, in their order."""
    places: tuple[int, ...]
    texts: frozenset[str]
    task: Task | None = None

    def reader(self) -> Callable[[list[str], Position, str], Record]:
        """A function from the cells of a row of text, its position, and its id if it brings none."""
        width, names = len(self.header), self.names
        label, row_id, time = self.label, self.id, self.time
        first, last = (self.places[0], self.places[-1] + 1) if self.places else (0, 0)
        in_a_row = self.places == tuple(range(first, last))
        some = slice(first, last)
        texts = [name in self.texts for name in names]
        any_text = True in texts
        task = self.task
        label_is_text = task is not None or (label is not None and self.header[label] in self.texts)

        def read(cells: list[str], position: Position, default: str) -> Record:
            if len(cells) != width:
                raise ValueError(f"{width} cells expected, {len(cells)} found")
            picked = cells[some] if in_a_row else [cells[place] for place in self.places]
            fields: dict[str, Any]
            try:
                if any_text or "_" in "".join(picked):  # float reads 1_000 as a number; in a table it is a code
                    fields = _sorted_out(names, picked, texts)
                else:
                    fields = dict(zip(names, map(float, picked)))  # noqa: B905 (as many as were picked)
            except ValueError:
                fields = _sorted_out(names, picked, texts)
            answer: Any = None if label is None else cells[label]
            if answer and not label_is_text:
                answer = number_or_text(answer)
            own = None if row_id is None else cells[row_id]
            return made(fields, answer, own, None if time is None else cells[time], default, position, task)

        return read


def _sorted_out(names: Sequence[str], cells: Sequence[str], texts: Sequence[bool]) -> dict[str, Any]:
    """Numbers and texts by name, without what is missing."""
    return {
        name: cell if is_text else number_or_text(cell)
        for name, cell, is_text in zip(names, cells, texts, strict=True)
        if cell
    }


def made(  # noqa: PLR0917 (called for each row)
    fields: Mapping[str, Any],
    label: Any,
    row_id: Any,
    time: Any,
    default: str,
    position: Position,
    task: Task | None = None,
) -> Record:
    """A record of values as they were found. Raises a ValueError that says what is wrong with them."""
    answer: Label | None = None if label is None or label == "" else label if type(label) is str else _number(label)
    if task is not None and label is not None and answer is not None:
        answer = class_name(label) if task == "classification" else _number(label)
    own = row_id is not None and row_id != ""
    if not fields and (answer is None or not own):
        raise ValueError("a label without an id belongs to no row" if answer is not None else "nothing is in it")
    when = None if time is None or time == "" else seconds(time)
    return Record(_id(row_id) if own else default, fields, answer, when, position)


def number_or_text(cell: str) -> float | str:
    """A cell as Python reads numbers, or else as it is.

    >>> [number_or_text(cell) for cell in ("3", " -1e3", "tue", "1_000", "")]
    [3.0, -1000.0, 'tue', '1_000', '']
    """
    if (cell[:1].isalpha() and cell[0] not in "nNiI") or "_" in cell:  # the others may be nan, inf or infinity
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell


def plain(cell: Any, name: str) -> float | bool | str | None:
    """A number, a truth value or a text; None if it is missing."""
    kind = type(cell)
    if kind is float or kind is bool or kind is str or cell is None:
        return None if cell == "" else cell
    if kind is int:
        try:
            return float(cell)
        except OverflowError:
            raise ValueError(f"the number {name!r} is too large") from None
    raise ValueError(f"{name!r} must be a number, a truth value or a text, but is {str(cell)[:40]}")


def seconds(time: Any) -> float:
    """Seconds since 1970 of a number of them, or of ISO 8601; where that names no zone, it is UTC.

    >>> seconds("1970-01-02"), seconds("1970-01-01T01:00+01:00"), seconds("0.5")
    (86400.0, 0.0, 0.5)
    """
    try:
        if isinstance(time, date):
            return _stamp(time)
        value = float("x" if isinstance(time, bool) or "_" in str(time) else time)
    except (ValueError, TypeError, OverflowError):
        try:
            return _stamp(datetime.fromisoformat(time.strip()))
        except (ValueError, AttributeError, OverflowError):
            raise ValueError(f"the time {str(time)[:40]!r} is neither seconds since 1970 nor ISO 8601") from None
    if not abs(value) < FURTHEST:
        raise ValueError(f"the time {time} is no seconds since 1970; are they milliseconds?")
    return value


def _stamp(time: date) -> float:
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day, tzinfo=UTC)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def class_name(label: Any) -> str:
    """The class that a label names, as `data.source.classify` says it.

    >>> [class_name(label) for label in ("rain", "007", "1.0", 2**53 + 1, 1.0, True)]
    ['rain', '007', '1', '9007199254740993', '1', 'True']
    """
    if isinstance(label, int) or (isinstance(label, str) and (label.isalpha() or _WHOLE.fullmatch(label))):
        return str(label)
    value = number_or_text(label) if isinstance(label, str) else float(label)
    if isinstance(value, str):
        return value
    if not value.is_integer():
        raise ValueError(f"the label {label!r} names no class; for numbers to be predicted give task='regression'")
    return str(int(value))


def _number(label: Any) -> float:
    try:
        number = float(plain(number_or_text(label) if isinstance(label, str) else label, "label") or 0.0)
    except ValueError:
        raise ValueError(f"the label {str(label)[:40]!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"the label is {number}")
    return number


def _id(row_id: Any) -> str:
    if isinstance(row_id, (str, int)) and not isinstance(row_id, bool):
        return str(row_id)
    if isinstance(row_id, float) and row_id.is_integer():
        return str(int(row_id))
    raise ValueError(f"the id must be a text or a whole number, but is {str(row_id)[:40]}")


def from_json(body: bytes | str, layout: Layout, position: Position, place: str, default: str) -> Record:
    """The row in a message or a line, which is an object of JSON; with a problem, if it is not."""
    try:
        text = body.decode() if isinstance(body, bytes) else body
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from None
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()  # half of a character is none, and could not be kept
        if not isinstance(row, dict):
            raise ValueError(f"an object of fields expected, {text.strip()[:40]} found")  # noqa: TRY004, TRY301
        return layout.record(row, position, default, typed=True)
    except ValueError as error:
        return problem(error, position, place, default)


def problem(error: Exception, position: Position, place: str, default: str) -> Record:
    """A row that could not be read."""
    why = "it is not in UTF-8" if isinstance(error, UnicodeError) else error
    return Record(default, {}, position=position, problem=f"{place}: {why}")
