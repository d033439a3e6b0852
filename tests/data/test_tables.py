"""What holds for tables: one table gives one source, in whatever format; a bad cell is named."""

import csv
import gzip
import json
import os

import numpy as np
import pytest
import torch

from everlearn.data import load
from everlearn.data.tables import CHUNK

TABLE = {"a": [1.5, -2.0, 3e3, 0.1], "label": ["10", "9", "10", "2"], "b": [1, 2, 3, 4]}


def write(path, table):
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    name = path.name
    opened = gzip.open if name.endswith(".gz") else open
    if ".parquet" in name:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(table), path)
    elif "json" in name:
        with opened(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(table), delimiter="\t" if ".tsv" in name else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def text(path, content):
    path.write_text(content, encoding="utf-8")
    return path


KINDS = ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.jsonl", "t.jsonl.gz", "t.ndjson", "t.parquet"]


@pytest.mark.parametrize("name", KINDS)
def test_a_table_gives_numbers_classes_and_ids_in_whatever_format(tmp_path, name):
    source = load(write(tmp_path / name, TABLE))
    batch = source.rows.take(torch.arange(4))
    assert source.rows.resident
    assert source.features == ("a", "b")
    assert batch["x"].dtype == torch.float32
    assert torch.equal(batch["x"], torch.tensor([[1.5, 1], [-2, 2], [3e3, 3], [0.1, 4]]))
    assert source.names == ("2", "9", "10")
    assert batch["y"].tolist() == [2, 1, 2, 0]
    assert batch["id"].dtype == torch.int64
    assert len(set(batch["id"].tolist())) == 4
    assert bool((batch["id"] >= 0).all())


@pytest.mark.parametrize("name", KINDS)
def test_random_numbers_are_the_same_float32_in_every_format(tmp_path, name):
    numbers = np.random.default_rng(0).normal(0, 1e3, 300).tolist()
    source = load(write(tmp_path / name, {"a": numbers, "y": [0] * 300}))
    assert torch.equal(source.rows.column("x")[:, 0], torch.tensor(numbers, dtype=torch.float64).float())


def test_a_table_longer_than_a_chunk_is_read_whole_and_errors_count_rows_from_its_start(tmp_path):
    count = CHUNK + 10
    table = {"a": list(range(count)), "y": [place % 3 for place in range(count)]}
    source = load(write(tmp_path / "t.csv", table))
    assert source.rows.column("x")[:, 0].tolist() == table["a"]
    assert source.rows.column("y").tolist() == table["y"]
    table["a"][CHUNK + 4] = "?"
    with pytest.raises(ValueError, match=rf"'a' must hold numbers, but row {CHUNK + 5} holds '\?'"):
        load(write(tmp_path / "t.csv", table))


def test_features_name_the_columns_and_their_order(tmp_path):
    path = write(tmp_path / "t.csv", {**TABLE, "date": ["mon", "tue", "wed", "thu"]})
    source = load(path, features=["b", "a"])
    assert source.features == ("b", "a")
    assert source.rows.column("x")[0].tolist() == [1, 1.5]
    assert load(path, features="b").rows.column("x").shape == (4, 1)


def test_one_text_alone_becomes_a_list_of_texts(tmp_path):
    words = ['good, "very" good', "bad", "a\nb", "10"]
    path = write(tmp_path / "t.csv", {**TABLE, "review": words})
    source = load(path, features=["review"])
    assert source.rows.column("text") == words
    assert source.features == ()
    assert set(source.rows.take(torch.tensor([0]))) == {"text", "y", "id"}


def test_an_id_column_identifies_rows_and_is_no_feature(tmp_path):
    source = load(write(tmp_path / "t.csv", {"id": ["7", "k-3", "8", "9"], **TABLE}))
    assert source.features == ("a", "b")
    ids = source.rows.column("id").tolist()
    assert [ids[0], ids[2], ids[3]] == [7, 8, 9]
    turned = load(write(tmp_path / "u.jsonl", {"id": ["k-3", 9], "a": [1, 2], "y": [0, 1]}))
    assert turned.rows.column("id").tolist() == [ids[1], 9]


def test_numbers_to_predict_are_float32_without_classes(tmp_path):
    source = load(write(tmp_path / "t.csv", TABLE), target="a", features=["b"], task="regression")
    assert source.names == ()
    assert source.rows.column("y").dtype == torch.float32
    assert source.rows.column("y").tolist() == [np.float32(number) for number in TABLE["a"]]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 2, 10], ("1", "2", "10")),
        ([1.0, 2.0, 10.0], ("1", "2", "10")),
        ([True, False, True], ("False", "True")),
        (["b", "a", "b"], ("a", "b")),
        (["img10", "img9", "x"], ("img9", "img10", "x")),
        ([-1, 1, -1], ("-1", "1")),
        (["01", "1", "2"], ("01", "1", "2")),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_classes_have_names_in_natural_order(tmp_path, labels, names, name):
    source = load(write(tmp_path / name, {"a": [1, 2, 3], "y": labels}))
    assert source.names == names
    assert (
        [float(source.names[code]) for code in source.rows.column("y").tolist()] == labels
        if isinstance(labels[0], float)
        else [source.names[code] for code in source.rows.column("y").tolist()] == [str(label) for label in labels]
    )


def test_ids_stay_when_rows_are_added_and_differ_between_files(tmp_path):
    first = load(write(tmp_path / "t.csv", TABLE))
    longer = load(write(tmp_path / "t.csv", {name: cells * 2 for name, cells in TABLE.items()}))
    other = load(write(tmp_path / "u.csv", TABLE))
    assert torch.equal(longer.rows.column("id")[:4], first.rows.column("id"))
    assert not set(other.rows.column("id").tolist()) & set(longer.rows.column("id").tolist())


def test_the_fingerprint_tells_other_data_and_only_other_data(tmp_path):
    path = write(tmp_path / "t.csv", TABLE)
    mark = load(path).fingerprint
    assert load(path).fingerprint == mark
    assert load(path, features=["b", "a"]).fingerprint != mark
    for change in ({"label": ["10", "9", "10", "9"]}, {"a": [1.5, -2.0, 3e3, 0.12]}):
        assert load(write(path, TABLE | change)).fingerprint != mark
    write(path, {name: cells[:3] for name, cells in TABLE.items()})
    assert load(path).fingerprint != mark


@pytest.mark.parametrize("bad", ["nan", "inf", "-Infinity", "", "1e39"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_number_that_is_missing_or_not_finite_is_named_by_row_and_column(tmp_path, bad, name):
    path = write(tmp_path / name, {"good": [1, 2, 3], "bad": [1, bad, bad], "y": [0, 1, 0]})
    with pytest.raises(
        ValueError, match="the column 'bad' must hold finite float32 numbers, but row 2 holds"
    ) as caught:
        load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=r"the column 'bad' must hold finite .* row 2"):
        load(path, target="bad", features=["good"], task="regression")


@pytest.mark.parametrize("line", ['{"a": NaN, "y": 0}', '{"a": null, "y": 0}', '{"y": 0}', '{"a": 1e999, "y": 0}'])
def test_json_without_a_finite_number_is_named_too(tmp_path, line):
    path = text(tmp_path / "t.jsonl", f'{{"a": 1, "y": 0}}\n{line}\n')
    with pytest.raises(ValueError, match="'a' must hold finite float32 numbers, but row 2"):
        load(path)


def test_parquet_without_a_number_is_named_too(tmp_path):
    path = write(tmp_path / "t.parquet", {"a": [1, None, 3], "y": [0, 1, 0]})
    with pytest.raises(ValueError, match="'a' must hold finite float32 numbers, but row 2 holds None"):
        load(path)


BAD = {
    "no target": ("t.csv", "a,b\n1,2\n", {}, r"none of \['label', 'y', 'target', 'class'\].*\['a', 'b'\]"),
    "two targets": ("t.csv", "y,label,b\n1,2,3\n", {}, r"both of \['label', 'y'\]"),
    "target misspelt": ("t.csv", "a,label\n1,2\n", {"target": "lable"}, "did you mean 'label'"),
    "feature misspelt": ("t.csv", "age,y\n1,2\n", {"features": ["agee"]}, "did you mean 'age'"),
    "target as feature": ("t.csv", "a,y\n1,2\n", {"features": ["y"]}, "beside the target 'y'"),
    "feature twice": ("t.csv", "a,y\n1,2\n", {"features": ["a", "a"]}, "different columns"),
    "nothing but answers": ("t.csv", "y\n1\n", {}, r"different columns .* \[\]"),
    "texts": (
        "t.csv",
        "a,city,y\n1,Ulm,0\n",
        {},
        r"'city' \(such as 'Ulm'\); leave them out by features=\['a'\]",
    ),
    "text among numbers": (
        "t.csv",
        "a,city,y\n1,Ulm,0\n",
        {"features": ["a", "city"]},
        r"not numbers: 'city'",
    ),
    "a code with underscores": ("t.csv", "a,y\n1_000,0\n", {}, "not numbers: 'a'"),
    "empty file": ("t.csv", "", {}, "has no rows"),
    "header only": ("t.csv", "a,y\n", {}, "has no rows"),
    "unnamed column": ("t.csv", ",a,y\n0,1,2\n", {}, "name of its own"),
    "column twice": ("t.csv", "a,a,y\n0,1,2\n", {}, "name of its own"),
    "short row": ("t.csv", "a,y\n1,2\n\n3\n", {}, "row 2 has 1 cells, but there are 2 columns"),
    "bad quotes": ("t.csv", 'a,y\n"1"2,3\n', {}, "cannot be read"),
    "fractions as classes": ("t.csv", "a,y\n1,2\n1,0.5\n", {}, r"holds '0.5' in row 2, .*task='regression'"),
    "a missing label": ("t.csv", "a,y\n1,u\n1,\n", {}, "'y' is empty in row 2"),
    "a null label": ("t.jsonl", '{"a": 1, "y": 0}\n{"a": 1, "y": null}\n', {}, "row 2 holds None"),
    "a list as label": ("t.jsonl", '{"a": 1, "y": [1]}\n', {}, r"row 1 holds \[1\]"),
    "words to predict": (
        "t.csv",
        "a,y\n1,u\n",
        {"task": "regression"},
        "'y' must hold numbers, but row 1 holds 'u'",
    ),
    "a missing id": ("t.csv", "id,a,y\n1,1,1\n,1,1\n", {}, "'id' is empty in row 2"),
    "no JSON": ("t.jsonl", '{"a": 1, "y": 0}\n{"a": \n', {}, "row 2 is no JSON"),
    "no object": ("t.jsonl", "[1, 2]\n", {}, "row 1 must be an object"),
    "a new key": ("t.jsonl", '{"a": 1, "y": 0}\n{"a": 1, "b": 2, "y": 0}\n', {}, r"row 2 has \['b'\]"),
    "no text": ("t.jsonl", '{"t": "u", "y": 0}\n{"t": 1, "y": 0}\n', {"features": ["t"]}, "row 2 holds 1"),
    "no Parquet": ("t.parquet", "PAR1", {}, "is no Parquet file"),
    "no gzip": ("t.csv.gz", "a,y\n", {}, "cannot be read"),
    "an unknown kind": ("t.xlsx", "", {}, r"no known kind.*\.csv"),
    "an unknown task": ("t.csv", "a,y\n1,2\n", {"task": "detect"}, "one of .*'regression'.*not 'detect'"),
    "an option of others": ("t.csv", "a,y\n1,2\n", {"size": 32}, "a table, which takes .* no size=32"),
    "grey tables": ("t.csv", "a,y\n1,2\n", {"channels": 1}, "no channels=1"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_table_is_an_error_that_says_what_is_wrong(tmp_path, what):
    name, content, options, words = BAD[what]
    path = text(tmp_path / name, content)
    with pytest.raises(ValueError, match=words):
        load(path, **options)


def test_a_file_that_is_not_utf8_or_cut_short_cannot_be_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n1,\xff\n")
    with pytest.raises(ValueError, match=r"cannot be read.*utf-8"):
        load(path)
    whole = write(tmp_path / "u.csv.gz", {"a": list(range(999)), "y": [0] * 999})
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        load(whole)


def test_nothing_at_a_path_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        load(tmp_path / "absent.csv")


def test_a_mark_of_the_byte_order_and_blank_lines_are_no_data(tmp_path):
    path = text(tmp_path / "t.csv", "\ufeffa,y\n\n1,2\n\n")
    assert load(path).features == ("a",)
    assert len(load(path).rows) == 1


def test_keys_that_were_not_asked_for_may_come_later(tmp_path):
    path = text(tmp_path / "t.jsonl", '{"a": 1, "y": 0}\n{"a": 1, "b": 2, "y": 0}\n')
    assert len(load(path, features=["a"]).rows) == 2


@pytest.mark.skipif("EVERLEARN_DATA" not in os.environ, reason="EVERLEARN_DATA does not name a folder of real data")
@pytest.mark.parametrize(
    ("name", "options", "rows", "features", "classes"),
    [
        ("streams/noaa_weather.csv.gz", {"target": "rain"}, 18_159, 8, 2),
        ("streams/outdoor.csv.gz", {}, 4_000, 21, 40),
        ("text/amazon4_reviews.tsv.gz", {"features": ["text"]}, 8_000, 0, 2),
        ("text/chnsenticorp_hotel.tsv.gz", {"features": ["text"]}, 7_766, 0, 2),
    ],
)
def test_real_tables_have_all_their_rows(name, options, rows, features, classes):
    source = load(os.environ["EVERLEARN_DATA"] + "/" + name, **options)
    assert (len(source.rows), len(source.features), len(source.names)) == (rows, features, classes)
