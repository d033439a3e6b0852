"""Plain values as one tensor: a checkpoint holds thousands of waiting rows as quickly as one."""

import json
from typing import Any

import torch
from torch import Tensor

from everlearn.online.engine import Prediction
from everlearn.streams.feed import Record


def pack(value: Any) -> Tensor:
    """`value`, as JSON holds it, in bytes: (n,) uint8. Tuples become lists, numbers keep every bit.

    >>> unpack(pack({"a": [1, 0.1, None, "ü"]}))
    {'a': [1, 0.1, None, 'ü']}
    """
    return torch.frombuffer(bytearray(json.dumps(value, separators=(",", ":")).encode()), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """What `pack` made the bytes of."""
    return json.loads(bytes(packed.numpy()))


def plain_record(record: Record) -> list[Any]:
    """A record that could be read, as plain values."""
    return [record.id, dict(record.fields), record.label, record.time, record.position]


def record_of(values: list[Any]) -> Record:
    """What `plain_record` made the values of."""
    return Record(*values)


def plain_prediction(prediction: Prediction) -> list[Any]:
    """A prediction as plain values."""
    return [prediction.id, prediction.answer, list(prediction.scores), prediction.steps]


def prediction_of(values: list[Any]) -> Prediction:
    """What `plain_prediction` made the values of."""
    id_, answer, scores, steps = values
    return Prediction(id_, answer, tuple(scores), steps)
