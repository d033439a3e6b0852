"""Answers whose last bits depend on the row and the weights alone: each at its own place in a block of fixed size."""

import math
from collections.abc import Callable, Sequence

from everlearn.online.engine import Prediction
from everlearn.streams.feed import Record


class Block:
    """Answers rows one after another, in blocks of `size`, which is that of a batch that is learned.

    The last bits of an answer depend on the size of a batch, and on the place in it. So a row is answered at the place
    that it will have in its batch, among so many rows, whoever stands there: copies of it, or the rows that follow it,
    as far as they are there. The answers of those are kept until it is their turn.
    """

    def __init__(self, size: int, predict: Callable[[Sequence[Record]], list[Prediction]]) -> None:
        self.size, self.place = size, 0
        """The place is that of the next row."""
        self._ask = predict
        self._ready: dict[int, tuple[int, Prediction]] = {}
        """Answers for records further down, by their number: the place in the block, and the answer."""

    def answer(self, records: Sequence[Record], number: int, known: Callable[[str], bool]) -> Prediction:
        """The answer for the record of this number; a ValueError if it cannot be read, and its place is still free.

        `known` says which ids came before, so that records of these are no rows to be answered.
        """
        at, prediction = self._ready.pop(number, (-1, None))
        if prediction is None or at != self.place:
            prediction = self._together(records, number, known)
        self.place = (self.place + 1) % self.size
        return prediction

    def forget(self) -> None:
        """The records are others now, or the weights are."""
        self._ready.clear()

    def begin(self) -> None:
        """A batch was learned: the next row is the first of its block."""
        self.forget()
        self.place = 0

    def predict(self, rows: Sequence[Record]) -> list[Prediction]:
        """The answers for rows that stand side by side, from the present place on."""
        before, after = self.place, self.size - self.place - len(rows)
        block = [rows[0]] * before + [*rows] + [rows[0]] * after
        answers = self._ask(block)[before : before + len(rows)]
        for each in answers:
            if isinstance(each.answer, float) and not math.isfinite(each.answer):
                raise ValueError(
                    f"the model answers {each.answer}, which is no number; a smaller learning rate usually helps"
                )
        return answers

    def _together(self, records: Sequence[Record], number: int, known: Callable[[str], bool]) -> Prediction:
        """The answer for a record; those for rows that follow it are got ready."""
        numbers = [number, *self._following(records, number, known)]
        try:
            answers = self.predict([records[each] for each in numbers])
        except ValueError:  # one of them cannot be read; is it this one?
            numbers = numbers[:1]
            answers = self.predict([records[number]])
        ready = zip(numbers, range(self.place, self.place + len(numbers)), answers, strict=True)
        self._ready = {each: (at, answer) for each, at, answer in ready}
        return self._ready.pop(number)[1]

    def _following(self, records: Sequence[Record], number: int, known: Callable[[str], bool]) -> list[int]:
        """The numbers of the rows that will follow in this block, as far as that can be known."""
        room = self.size - self.place - 1
        ids, found = {records[number].id}, []
        for later in range(number + 1, len(records) if room else 0):
            record = records[later]
            if not record.problem and not record.is_label and record.id not in ids and not known(record.id):
                ids.add(record.id)
                found.append(later)
                if len(found) == room:
                    break
        return found
