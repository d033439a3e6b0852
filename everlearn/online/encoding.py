"""From records to rows of numbers: fields by name become columns, which are only ever appended."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from math import isnan, nan
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import Batch
from everlearn.border import one_of, positive, same_settings
from everlearn.data.hashing import name_id
from everlearn.models.classes import Classes
from everlearn.streams.feed import Label, Record

Unseen = Literal["grow", "ignore", "refuse"]
Fields = Sequence[str] | Mapping[str, str | Sequence[str]]

LARGEST = 1e15
"""What is not below it is no measurement: its square would be lost in float32."""


class RowError(ValueError):
    """A row that cannot be read: which one, in which field, and what stands there."""

    def __init__(self, row: str, field: str, value: object, why: str) -> None:
        shown = repr(value)
        super().__init__(f"row {row!r}: {field!r} is {shown if len(shown) <= 60 else f'{shown[:57]}...'}, but {why}")
        self.row, self.field, self.value = row, field, value


class Sizes(NamedTuple):
    """How many columns, numbers, texts with others, vectors and classes there are, and values of each text."""

    columns: int
    numbers: int
    others: int
    vectors: int
    classes: int
    values: tuple[int, ...]


class Encoder:
    """A table: numbers and truth values have a column each, texts one for each of their values, vectors one a number.

    A column keeps its place for good: new ones are appended in the order in which they are met, and nothing is sorted.
    `encode` never changes anything, and passes over what it has not met; `admit` is what appends. `unseen` says what
    becomes of fields that come later: "grow" appends them, "ignore" leaves them out, "refuse" is a `RowError` that
    names them. A text has columns of its own for its first `values` values, and one for all others. What would need
    more than `most` columns is a `RowError`: names of fields that never end are no table.

    What is missing, None or not there, is NaN; of a text, 0 in all its columns. `fields` are known from the beginning:
    names of numbers; or by name "number", "text" or the values of a text. `classes` are the names of the first
    outputs; None: what is to be predicted is a number.

    >>> encoder = Encoder()
    >>> rows = [Record("1", {"size": 2, "day": "mon"}), Record("2", {"day": "tue"})]
    >>> encoder.admit(rows, ["yes", "no"])
    >>> encoder.columns
    ('size', 'day=mon', 'day=tue')
    >>> encoder.encode(rows)["x"]
    tensor([[2., 1., 0.],
            [nan, 0., 1.]])
    """

    def __init__(
        self,
        fields: Fields = (),
        classes: Sequence[str] | None = (),
        *,
        unseen: Unseen = "grow",
        values: int = 100,
        most: int = 10_000,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        one_of("unseen", unseen, ("grow", "ignore", "refuse"))
        one_of("dtype", dtype, ("float32", "float64"))
        positive(values=values, most=most)
        self.settings: dict[str, Any] = {
            "unseen": unseen,
            "values": values,
            "most": most,
            "dtype": dtype,
            "regression": classes is None,
        }
        self.unseen, self.values, self.most, self.dtype = unseen, values, most, getattr(torch, dtype)
        self.classes = None if classes is None else Classes(classes)
        self._columns: list[str] = []
        self._left: list[bool] = []
        self._numbers: dict[str, int] = {}
        self._texts: dict[str, dict[str, int]] = {}
        self._others: dict[str, int] = {}
        self._vectors: dict[str, tuple[int, int]] = {}
        for name, kind in (fields if isinstance(fields, Mapping) else dict.fromkeys(fields, "number")).items():
            if kind == "number":
                self._numbers[name] = self._append(name, left=False)
            elif isinstance(kind, str) and kind != "text":
                raise ValueError(f"the field {name!r} is {kind!r}; say number, text, or a list of the texts in it")
            else:
                known = () if kind == "text" else dict.fromkeys(kind)
                self._texts[name] = {value: self._append(f"{name}={value}", left=True) for value in known}
        self._settle()

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self._columns)

    @property
    def left(self) -> tuple[bool, ...]:
        """For each column, whether it says 0 or 1, and is to be left as it is by what scales."""
        return tuple(self._left)

    # -- pure -------------------------------------------------------------------------------------------------

    def encode(self, records: Sequence[Record]) -> Batch:
        """The rows, {"x": (records, width)}; a `RowError` for the first that cannot be read."""
        if self._alone is not None:
            return {"x": self._stacked(records, self._alone)}
        rows = array("d")
        for record in records:
            rows.extend(self._row(record))
        if not rows:
            return {"x": torch.zeros(len(records), self.width, dtype=self.dtype)}
        return {"x": torch.frombuffer(rows, dtype=torch.float64).to(self.dtype).view(len(records), -1)}

    def targets(self, records: Sequence[Record], labels: Sequence[Label]) -> Tensor:
        """The labels as an objective takes them: outputs (int64), or numbers; a `RowError` for the first that is none.

        A class that is not known is a ValueError.
        """
        if self.classes is not None:
            return self.classes.index([_named(record, label) for record, label in zip(records, labels, strict=True)])
        numbers = [_finite(record, "label", label) for record, label in zip(records, labels, strict=True)]
        return torch.tensor(numbers, dtype=self.dtype)

    def knows(self, records: Sequence[Record], labels: Sequence[Label]) -> bool:
        """Whether `admit` would change nothing."""
        if self.classes is not None:
            for label in labels:
                if not (isinstance(label, str) and label in self.classes):
                    return False
        if not self._open:
            return True
        return all(
            record.fields.keys() <= self._numbers.keys()
            or not any(self._strange(*item) for item in record.fields.items())
            for record in records
        )

    # -- growing ----------------------------------------------------------------------------------------------

    def admit(self, records: Sequence[Record], labels: Sequence[Label] = ()) -> None:
        """Appends what is new in the records and labels; a `RowError` for the first that cannot be, and no change."""
        before = self.sizes
        try:
            if self._open:
                for record in records:
                    for name, value in record.fields.items():
                        if self._strange(name, value):
                            self._admit_value(record, name, value)
            if self.classes is not None and labels:
                names = [_named(record, label) for record, label in zip(records, labels, strict=True)]
                self.classes.add(dict.fromkeys(names))
        except RowError:
            self.cut(before)
            raise
        if self.width > before.columns:
            self._settle()

    @property
    def sizes(self) -> "Sizes":
        """How much it has met: `cut` goes back there."""
        return Sizes(
            len(self._columns),
            len(self._numbers),
            len(self._others),
            len(self._vectors),
            0 if self.classes is None else len(self.classes),
            tuple(map(len, self._texts.values())),
        )

    def cut(self, sizes: "Sizes") -> None:
        """Forgets what it has met since it had these sizes: what was appended last goes first."""
        columns, numbers, others, vectors, classes, values = sizes
        del self._columns[columns:], self._left[columns:]
        for held, size in ((self._numbers, numbers), (self._others, others), (self._vectors, vectors)):
            _shorten(held, size)
        _shorten(self._texts, len(values))
        for places, size in zip(self._texts.values(), values, strict=True):
            _shorten(places, size)
        if self.classes is not None and len(self.classes) > classes:
            self.classes.load_state_dict({"names": list(self.classes)[:classes]})
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        """All that it has met, in plain values."""
        return {
            "settings": dict(self.settings),
            "columns": list(self._columns),
            "left": list(self._left),
            "numbers": dict(self._numbers),
            "texts": {name: dict(places) for name, places in self._texts.items()},
            "others": dict(self._others),
            "vectors": {name: list(places) for name, places in self._vectors.items()},
            "classes": None if self.classes is None else self.classes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Becomes what `state_dict` saved, whatever it was before; its settings must be the same."""
        same_settings(state["settings"], self.settings)
        self._columns, self._left = list(state["columns"]), list(state["left"])
        self._numbers, self._others = dict(state["numbers"]), dict(state["others"])
        self._texts = {name: dict(places) for name, places in state["texts"].items()}
        self._vectors = {name: (start, size) for name, (start, size) in state["vectors"].items()}
        if self.classes is not None:
            self.classes.load_state_dict(state["classes"])
        self._settle()

    # -- inside -----------------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        """Whether new fields are appended."""
        return self.unseen == "grow" or not self._columns

    def _strange(self, name: str, value: Any) -> bool:
        """Whether the value needs columns that there are not."""
        if value is None or name in self._numbers or name in self._vectors:
            return False
        places = self._texts.get(name)
        return places is None or (isinstance(value, str) and value not in places and name not in self._others)

    def _settle(self) -> None:
        """What rows are made from, once all columns have their places."""
        self._blank = [0.0 if left else nan for left in self._left]
        whole = 1 < len(self._numbers) == self.width
        self._whole: Callable[[Mapping[str, Any]], Any] | None = itemgetter(*self._numbers) if whole else None
        single = len(self._vectors) == 1 and not self._numbers and not self._texts
        self._alone = next(iter(self._vectors)) if single else None

    def _row(self, record: Record) -> Sequence[float]:
        if self._whole is not None and (self.unseen != "refuse" or len(record.fields) == self.width):
            try:
                row = array("d", self._whole(record.fields))
            except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
                pass  # something is missing, or no number: which one is found below
            else:
                if max(row) < LARGEST and min(row) > -LARGEST and not isnan(sum(row)):
                    return row
        return self._sorted_in(record)

    def _sorted_in(self, record: Record) -> list[float]:
        row = self._blank.copy()
        for name, value in record.fields.items():
            if value is None:
                continue
            if (place := self._numbers.get(name)) is not None:
                row[place] = _finite(record, name, value)
            elif (places := self._texts.get(name)) is not None:
                if not isinstance(value, str):
                    raise RowError(record.id, name, value, "before there were texts in it: a text is needed, or None")
                if (place := places.get(value, self._others.get(name))) is not None:
                    row[place] = 1.0
            elif name in self._vectors:
                start, size = self._vectors[name]
                row[start : start + size] = self._values(record, name, value, size).tolist()
            elif self.unseen == "refuse" and self._columns:
                known = ", ".join([*self._numbers, *self._texts, *self._vectors][:20])
                raise RowError(record.id, name, value, f"there is no such field; there are {known}")
        return row

    def _stacked(self, records: Sequence[Record], name: str) -> Tensor:
        size = self.width
        missing = torch.full((size,), nan, dtype=self.dtype)
        given = [(record, record.fields.get(name)) for record in records]
        rows = [missing if value is None else self._values(record, name, value, size) for record, value in given]
        return torch.stack(rows) if rows else missing.new_zeros(0, size)

    def _values(self, record: Record, name: str, value: Any, size: int) -> Tensor:
        if not _is_vector(value) or len(value) != size:
            raise RowError(record.id, name, value, f"as many numbers as before are needed, {size}, or None")
        try:
            vector = torch.as_tensor(value, dtype=self.dtype)
        except (TypeError, ValueError, RuntimeError):
            vector = torch.full((size,), nan)
        if vector.dim() != 1 or not bool((vector.abs() < LARGEST).all()):
            raise RowError(record.id, name, value, f"its {size} numbers must be finite and below {LARGEST:.0e}")
        return vector

    def _admit_value(self, record: Record, name: str, value: Any) -> None:
        size = len(value) if _is_vector(value) else 1
        if not size:
            raise RowError(record.id, name, value, "a vector has one number at least; None says missing")
        if self.width + size > self.most:
            raise RowError(
                record.id,
                name,
                value,
                f"there are {self.width} columns already, and {self.most} are the most; name the fields to be learned, "
                "raise most, or hash texts as words",
            )
        if isinstance(value, str):
            self._texts.setdefault(name, {})
            self._admit_text(name, value)
        elif _is_vector(value):
            start = self.width
            for place in range(len(value)):
                self._append(f"{name}[{place}]", left=False)
            self._vectors[name] = start, len(value)
        else:
            _finite(record, name, value)
            self._numbers[name] = self._append(name, left=False)

    def _admit_text(self, name: str, value: str) -> None:
        places = self._texts[name]
        if len(places) < self.values:
            places[value] = self._append(f"{name}={value}", left=True)
        else:
            self._others[name] = self._append(f"{name}: other", left=True)

    def _append(self, name: str, *, left: bool) -> int:
        self._columns.append(name)
        self._left.append(left)
        return len(self._columns) - 1


def _shorten(held: dict[str, Any], size: int) -> None:
    while len(held) > size:
        held.popitem()


def row_ids(records: Sequence[Record]) -> Tensor:
    """The ids of records as numbers, (records,) int64: a row that comes again has the same."""
    return torch.tensor([name_id(record.id) for record in records], dtype=torch.int64)


def _finite(record: Record, name: str, value: Any) -> float:
    try:
        number = nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: of tensors
        number = nan
    if not abs(number) < LARGEST:
        raise RowError(record.id, name, value, f"a number is needed, finite and below {LARGEST:.0e}; None says missing")
    return number


def _named(record: Record, label: Label) -> str:
    if not isinstance(label, str) or not label:
        raise RowError(record.id, "label", label, 'classes have names, which are texts; numbers are task="regression"')
    return label


def _is_vector(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
