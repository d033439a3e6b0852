"""Rows from tables: CSV, TSV, JSON lines and Parquet."""

import csv
import difflib
import gzip
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
import torch
from torch import Tensor

from everlearn.batch import UNLABELED
from everlearn.data.hashing import name_id, row_ids
from everlearn.data.rows import Columns
from everlearn.data.source import Source, Task, classify, fingerprint

Array = np.ndarray[Any, Any]
Cells = Sequence[Any] | Array
Chunk = dict[str, Cells]
"""The cells of some consecutive rows, by column."""

TARGETS = ("label", "y", "target", "class")
CHUNK = 32_768
_MISSING = (None, "")
_PLAIN = re.compile(r"0|[1-9][0-9]{0,17}")


def load_table(
    path: Path,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    task: Task = "classification",
    labels: bool = True,
) -> Source:
    """The table in a .csv, .tsv, .jsonl or .ndjson file (each also as .gz), or in a .parquet file.

    `target` names the column of the answers; without it, the one of label, y, target and class that there is.
    All other columns must be numbers, and are the float32 vector x in the order of the file; `features` names
    some of them, and their order. A single feature that is not numbers is the text of each row: the list
    column "text". A column "id" identifies the rows, and is a feature only if `features` names it. With
    `labels=False` the answers, if there are some, are not looked at: y is `UNLABELED` in each row.

    CSV is read by Python's own csv module, and numbers as Python reads them: a table gives the same float32
    as CSV, JSON lines or Parquet. Raises a ValueError that names the row (counted from 1, without the header)
    and the column of the first cell that is missing, not finite, or no number.
    """
    return table_source(
        path,
        path.name,
        _chunks(path, strict=features is None),
        target=target,
        features=features,
        task=task,
        labels=labels,
    )


def table_source(
    path: Path,
    identity: str,
    chunks: Iterator[Chunk],
    *,
    target: str | None,
    features: Sequence[str] | None,
    task: Task,
    labels: bool = True,
) -> Source:
    """The rows of a table whose cells come in chunks; `identity` is what the ids of its rows derive from."""
    chunk = next(chunks, None)
    if chunk is None:
        raise ValueError(f"{path} has no rows")
    target = target_of(path, tuple(chunk), target) if labels else _answers(tuple(chunk), target)
    wanted = _features(path, tuple(chunk), target, features)
    text = _text(path, chunk, wanted, alone_may_be_text=features is not None)
    numeric = () if text else wanted
    kept: dict[str, list[Any]] = {column: [] for column in (labels and target, "id", text) if column in chunk}
    vectors: list[Array] = []
    count = 0
    while chunk is not None:
        if numeric:
            vectors.append(np.stack([_numbers(path, name, chunk[name], count) for name in numeric], axis=1))
        for column, cells in kept.items():
            cells.extend(_listed(chunk[column]))
        count += len(chunk[wanted[0]])
        chunk = next(chunks, None)
    names: tuple[str, ...] = ()
    if not labels:
        answers = torch.full((count,), UNLABELED)
    elif task == "regression":
        answers = torch.from_numpy(_numbers(path, target, kept[target], 0))
    else:
        names, answers = classify(kept[target], f"{path}: the column {target!r}")
    columns: dict[str, Tensor | list[Any]] = {"x": torch.from_numpy(np.concatenate(vectors))} if vectors else {}
    if text:
        columns["text"] = _texts(path, text, kept[text])
    columns["y"] = answers
    columns["id"] = _ids(path, kept["id"]) if "id" in kept else row_ids(identity, count)
    rows = Columns(columns)
    files = [path] if path.is_file() else sorted(path.rglob("*.arrow"))
    return Source(rows, names, numeric, fingerprint=fingerprint(rows, files, names, wanted))


def nearest(name: str, names: Sequence[str]) -> str:
    """What an error says of a name that is not among `names`.

    >>> nearest("lable", ["label", "x"])
    "did you mean 'label'? There are ['label', 'x']"
    """
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}? There are {list(names)}" if close else f"there are {list(names)}"


def target_of(path: Path, columns: Sequence[str], target: str | None) -> str:
    """The column of the answers: the one that is named, or else the one that is usually called so."""
    if target is not None:
        if target not in columns:
            raise ValueError(f"{path} has no column {target!r} for the target: {nearest(target, columns)}")
        return target
    found = [name for name in TARGETS if name in columns]
    if len(found) != 1:
        which = f"both of {found}" if found else f"none of {list(TARGETS)}"
        raise ValueError(
            f"{path} has {which} among its columns {list(columns)}; name the target, or call its column label"
        )
    return found[0]


def _answers(columns: Sequence[str], target: str | None) -> str:
    """The column of answers that are not looked at, if there is one; "" if there is none."""
    return next((name for name in (target, *(() if target else TARGETS)) if name in columns), "") or ""


def _features(path: Path, columns: Sequence[str], target: str, features: Sequence[str] | None) -> tuple[str, ...]:
    if features is None:
        features = [name for name in columns if name not in {target, "id"}]
    wanted = (features,) if isinstance(features, str) else tuple(features)
    for name in wanted:
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r} for a feature: {nearest(name, columns)}")
    if not wanted or len(set(wanted)) < len(wanted) or target in wanted:
        raise ValueError(
            f"{path}: the features must be different columns beside the target {target!r}, but are "
            f"{list(wanted)}; there are {list(columns)}"
        )
    return wanted


def _text(path: Path, chunk: Chunk, wanted: Sequence[str], *, alone_may_be_text: bool) -> str | None:
    """The feature that is text, if it is the only one; other features without numbers are an error."""
    texts = [name for name in wanted if _parsed(chunk[name]) is None]
    if alone_may_be_text and texts == list(wanted):
        return texts[0] if len(texts) == 1 else _refuse(path, chunk, wanted, texts)
    return _refuse(path, chunk, wanted, texts) if texts else None


def _refuse(path: Path, chunk: Chunk, wanted: Sequence[str], texts: Sequence[str]) -> NoReturn:
    examples = ", ".join(f"{name!r} (such as {str(_odd(chunk[name])[1])[:40]!r})" for name in texts)
    left = [name for name in wanted if name not in texts]
    without = f"leave them out by features={left}, or " if left else ""
    raise ValueError(
        f"{path} has columns that are not numbers: {examples}; {without}take one text alone, as in "
        f"features=[{texts[0]!r}]"
    )


def _numbers(path: Path, column: str, cells: Cells, above: int) -> Array:
    """The cells as float32, (n,), all finite; `above` rows come before them."""
    values = _parsed(cells)
    if values is None:
        row, cell = _odd(cells)
        raise ValueError(f"{path}: the column {column!r} must hold numbers, but row {above + row + 1} holds {cell!r}")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(
            f"{path}: the column {column!r} must hold finite float32 numbers, but row "
            f"{above + row + 1} holds {cells[row]!r}; fill it in, or leave the row out"
        )
    return numbers


def _parsed(cells: Cells) -> Array | None:
    """The cells as float64, with NaN for a missing one; None if there is one that is no number."""
    if isinstance(cells, np.ndarray):
        return cells.astype(np.float64)
    texts = [cell for cell in cells if isinstance(cell, str)]
    if "_" in "".join(texts):  # float reads 1_000 as a number; in a table it is a code
        return None
    if any(missing in cells for missing in _MISSING):
        cells = [math.nan if cell in _MISSING else cell for cell in cells]
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except (TypeError, ValueError, OverflowError):
        return None


def _listed(cells: Cells) -> list[Any]:
    return list(cells.tolist() if isinstance(cells, np.ndarray) else cells)


def _odd(cells: Cells) -> tuple[int, Any]:
    """The first cell that is no number, and its position."""
    return next((row, cell) for row, cell in enumerate(cells) if _parsed([cell]) is None)


def _texts(path: Path, column: str, cells: list[Any]) -> list[str]:
    odd = next((row for row, cell in enumerate(cells) if not isinstance(cell, str)), None)
    if odd is not None:
        raise ValueError(f"{path}: the column {column!r} must hold texts, but row {odd + 1} holds {cells[odd]!r}")
    return cells


def _ids(path: Path, cells: list[Any]) -> Tensor:
    """Whole numbers of up to 18 digits as they are, all else by a hash of its text."""
    for row, cell in enumerate(cells):
        if cell in _MISSING:
            raise ValueError(f"{path}: the column 'id' is empty in row {row + 1}")
    texts = map(str, cells)
    return torch.tensor([int(text) if _PLAIN.fullmatch(text) else name_id(text) for text in texts], dtype=torch.int64)


def _chunks(path: Path, *, strict: bool) -> Iterator[Chunk]:
    """The cells of a file, some rows at a time."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        yield from _parquet(path)
        return
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            if kind in {"csv", "tsv"}:
                yield from _csv(path, file, "," if kind == "csv" else "\t")
            else:
                yield from _json_lines(path, file, strict=strict)
        except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def _csv(path: Path, file: TextIO, delimiter: str) -> Iterator[Chunk]:
    lines = csv.reader(file, delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(lines, [])]
    _check_header(path, header)
    rows = (row for row in lines if row)
    count = 0
    while chunk := list(itertools.islice(rows, CHUNK)):
        for number, row in enumerate(chunk, start=count + 1):
            if len(row) != len(header):
                raise ValueError(f"{path}: row {number} has {len(row)} cells, but there are {len(header)} columns")
        count += len(chunk)
        yield dict(zip(header, zip(*chunk, strict=True), strict=True))


def _json_lines(path: Path, file: TextIO, *, strict: bool) -> Iterator[Chunk]:
    lines = (line for line in file if line.strip())
    columns: tuple[str, ...] = ()
    count = 0
    while chunk := [
        _json(path, line, number) for number, line in enumerate(itertools.islice(lines, CHUNK), start=count + 1)
    ]:
        columns = columns or tuple(chunk[0])
        _check_header(path, columns)
        for number, row in enumerate(chunk, start=count + 1):
            if strict and (more := row.keys() - set(columns)):
                raise ValueError(
                    f"{path}: row {number} has {sorted(more)}, which the first row has not; name the features"
                )
        count += len(chunk)
        yield {name: [row.get(name) for row in chunk] for name in columns}


def _json(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: row {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004 - what is wrong is the file
            f"{path}: row {number} must be an object of columns, but it is {line.strip()[:80]}"
        )
    return row


def _parquet(path: Path) -> Iterator[Chunk]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"reading {path} needs pyarrow: pip install 'everlearn[tables]'") from error
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    with file:
        _check_header(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=CHUNK):
            if batch.num_rows:
                yield {name: arrow_cells(batch.column(name)) for name in batch.schema.names}


def arrow_cells(column: Any) -> Cells:
    """A column of pyarrow as an array if it is numbers and none is missing, else as a list."""
    import pyarrow as pa  # noqa: PLC0415 - whoever has such a column has imported it

    kind = column.type
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return list(column.to_pylist())


def _check_header(path: Path, header: Sequence[str]) -> None:
    if "" in header or len(set(header)) < len(header):
        raise ValueError(f"{path}: each column needs a name of its own, but the columns are {list(header)}")
