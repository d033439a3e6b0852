"""Reviews of a few words: how texts become rows, what has labels, and what stands beside rows that have none."""

import gzip
from dataclasses import replace

import pytest
import torch

from everlearn import Learner
from everlearn.batch import UNLABELED
from everlearn.bench.published import amazon
from everlearn.bench.reviews import DOMAINS, WORDS, Reviewed, Reviews, reviews, words
from everlearn.data import Columns

LABELLED = Reviewed("a paper", epochs=2, batch_size=8)
BESIDE = replace(LABELLED, labelled=False, reference=True)
KEPT = replace(LABELLED, labelled=False)
SCORES = {"accuracy", "first", "others", "forgetting"}


def texts(domain, count):
    """Praise and blame, in turn, in words that all domains share and in words of this one."""
    for place in range(count):
        good = place % 2
        shared, own = ("great", f"{domain}ish") if good else ("poor", f"un{domain}ish")
        yield good, f"A {shared} buy, {own}! Number {place}, {domain} {place % 3}."


def made(count=24):
    """Reviews as they come out of the file."""
    train, test = [], []
    for domain in DOMAINS:
        labels, found = zip(*texts(domain, count), strict=True)
        x, y = torch.stack([words(text) for text in found]), torch.tensor(labels)
        half = torch.arange(count) < count // 2
        for rows, part in ((train, half), (test, ~half)):
            rows.append(Columns(x=x[part], y=y[part]))
    return Reviews(tuple(train), tuple(test), "")


FOUND = made()


def scored(protocol, method="naive", seed=0):
    return protocol.scored(method, seed, FOUND)


@pytest.fixture
def seen(monkeypatch):
    """The experiences that are learned, and the batches."""
    found = {"experiences": [], "batches": []}
    steps, update = Learner.steps, Learner._update

    def learned(self, experience):
        found["experiences"].append(experience)
        yield from steps(self, experience)

    def updated(self, batch, beside=None):
        found["batches"].append((batch, beside))
        return update(self, batch, beside)

    monkeypatch.setattr(Learner, "steps", learned)
    monkeypatch.setattr(Learner, "_update", updated)
    return found


# -- words ----------------------------------------------------------------------------------------------------


def test_a_text_is_the_set_of_its_words_and_of_pairs_of_neighbours_at_length_one():
    row = words("good good book")  # good, book, good good, good book
    assert row.shape == (WORDS,)
    assert int((row > 0).sum()) == 4
    assert float(row.norm()) == pytest.approx(1)
    assert row[row > 0].allclose(torch.full((4,), 0.5))
    assert (words("good")[row > 0] > 0).any()


def test_case_and_punctuation_do_not_count_and_the_order_of_words_does():
    assert words("Not good, at all!").equal(words("not  good at all"))
    assert not words("not good").equal(words("good not"))
    assert words("").eq(0).all()
    assert words("?!").eq(0).all()


def test_words_have_the_same_places_in_each_process():
    assert words("good").nonzero().tolist() == [[GOOD]]


GOOD = 2712
"""The place of one word, taken down once: it may not depend on the hash that Python salts anew."""


# -- streams --------------------------------------------------------------------------------------------------


def test_with_labels_four_domains_arrive_one_after_the_other(seen):
    values = scored(LABELLED)
    assert set(values) == SCORES
    assert set(LABELLED.chance) == SCORES - {"forgetting"}
    assert [each.index for each in seen["experiences"]] == [0, 1, 2, 3]
    assert all(each.reference is None for each in seen["experiences"])
    assert all((batch["y"] >= 0).all() and beside is None for batch, beside in seen["batches"])
    assert values["accuracy"] > 80


def test_without_labels_only_the_first_domain_has_some(seen):
    scored(KEPT)
    first, *others = seen["experiences"]
    assert (torch.as_tensor(first.train.column("y")) >= 0).all()
    for each in others:
        assert (each.train.take(torch.arange(len(each.train)))["y"] == UNLABELED).all()
        assert each.reference is None
        assert (torch.as_tensor(each.test.column("y")) >= 0).all()


def test_the_first_domain_stands_beside_the_others_where_it_is_the_reference(seen):
    scored(BESIDE, "coral")
    first, *others = seen["experiences"]
    assert first.reference is None
    assert all(each.reference is first.train for each in others)
    known = {tuple(row.tolist()) for row in first.train.column("x")}
    pairs = [(batch, beside) for batch, beside in seen["batches"] if beside is not None]
    assert len(pairs) == len(seen["batches"]) * 3 // 4
    for batch, beside in pairs:
        assert (batch["y"] == UNLABELED).all()
        assert {tuple(row.tolist()) for row in beside["x"]} <= known
        assert (beside["y"] >= 0).all()


def test_a_memory_may_be_the_reference_and_without_one_nothing_is_learned_from_the_others(seen):
    values = scored(KEPT, "er:memory=20,count=8+coral")
    assert all(beside is None for _, beside in seen["batches"])
    assert values != scored(KEPT)
    alone = scored(KEPT)
    assert alone["forgetting"] == 0  # no label came, so nothing was written over
    assert alone == scored(KEPT, "coral")


def test_first_and_others_make_up_the_accuracy():
    values = scored(LABELLED, "er:memory=20,count=8")
    assert (values["first"] + 3 * values["others"]) / 4 == pytest.approx(values["accuracy"])


@pytest.mark.parametrize("protocol", [LABELLED, BESIDE])
def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(protocol):
    noise = torch.Generator().manual_seed(0)

    def loud(rows):  # so that not all is right, or wrong
        x = rows.column("x")
        return Columns(x=x + 0.1 * torch.randn(x.shape, generator=noise), y=rows.column("y"))

    found = Reviews(*(tuple(map(loud, part)) for part in FOUND[:2]), "")

    def scored(seed):
        return protocol.scored("dann:hidden=8", seed, found)

    before = torch.get_rng_state()
    first = scored(0)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(7)
    assert scored(0) == first
    assert scored(1) != first


def test_rows_are_made_and_their_ordering_is_between_them():
    rows = {row.name: row for row in amazon.ROWS}
    assert len(rows) == len(amazon.ROWS)
    for ordering in amazon.ORDERINGS:
        assert {ordering.higher, ordering.lower} <= rows.keys()


# -- the data -------------------------------------------------------------------------------------------------


def written(folder, count=6):
    (folder / "text").mkdir()
    lines = ["domain\tlabel\ttext"]
    for domain in DOMAINS:
        lines += [f'{domain}\t{"positive" if good else "negative"}\t"{text}' for good, text in texts(domain, count)]
    with gzip.open(folder / "text" / "amazon4_reviews.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return folder


def test_half_of_the_reviews_of_each_domain_are_learned_from_and_quotes_are_no_quotes(tmp_path):
    found = reviews(written(tmp_path))
    assert len(found.train) == len(found.test) == len(DOMAINS)
    for domain, train, test in zip(DOMAINS, found.train, found.test, strict=True):
        expected = list(texts(domain, 6))
        for rows, mine in ((train, expected[::2]), (test, expected[1::2])):
            assert rows.column("x").equal(torch.stack([words(text) for _, text in mine]))
            assert torch.as_tensor(rows.column("y")).tolist() == [good for good, _ in mine]
    ids = [i for rows in (*found.train, *found.test) for i in torch.as_tensor(rows.column("id")).tolist()]
    assert len(set(ids)) == len(ids)
    assert LABELLED.data(tmp_path) == found.digest


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no reviews in .* expected text/amazon4_reviews.tsv.gz"):
        LABELLED.data(tmp_path)
