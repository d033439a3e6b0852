"""Rows that are texts: which words are in them, by hash."""

from collections.abc import Sequence
from typing import Any

import torch

from everlearn.batch import Batch
from everlearn.border import positive
from everlearn.data.hashing import bag_of_words
from everlearn.online.encoding import Encoder, RowError
from everlearn.streams.feed import Record


class Words(Encoder):
    """A bag of words and pairs of words, of length 1, in so many buckets: new words need no new columns.

    The text is that in `field`; None: the only text among the fields. Other fields are left out. No text is no word.

    >>> Words(buckets=8).encode([Record("1", {"text": "Good good book"})])["x"].count_nonzero()
    tensor(3)
    """

    def __init__(
        self, classes: Sequence[str] | None = (), *, buckets: int = 4096, field: str | None = None, **options: Any
    ) -> None:
        positive(buckets=buckets)
        super().__init__((), classes, **options)
        self.settings |= {"buckets": buckets, "field": field}
        self.buckets, self.field = buckets, field
        for place in range(buckets):
            self._append(f"words {place}", left=True)

    def encode(self, records: Sequence[Record]) -> Batch:
        """The rows, {"x": (records, buckets)}."""
        if not records:
            return {"x": torch.zeros(0, self.buckets, dtype=self.dtype)}
        return {"x": torch.stack([bag_of_words(self._text(r), self.buckets) for r in records]).to(self.dtype)}

    @property
    def _open(self) -> bool:
        return False

    def _text(self, record: Record) -> str:
        if self.field is None:
            texts = [name for name, value in record.fields.items() if isinstance(value, str)]
            if len(texts) > 1:
                raise RowError(
                    record.id, texts[1], record.fields[texts[1]], f"{texts[0]!r} is a text, too; name field="
                )
            return str(record.fields[texts[0]]) if texts else ""
        value = record.fields.get(self.field)
        if value is not None and not isinstance(value, str):
            raise RowError(record.id, self.field, value, "a text is needed, or None")
        return value or ""
