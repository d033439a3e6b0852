"""everlearn bench: which rows are chosen, what is shown and written, and how it ends."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from bench.tiny import measured, row

from everlearn.bench.statistics import Published
from everlearn.bench.verdict import Ordering
from everlearn.cli import bench as module
from everlearn.cli import main


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys):
    """The program on rows that cost nothing, in threads; gives the exit code and what was printed."""
    rows = [row("one"), row("two", score=50.0), row("three", theirs=None), row("broken", broken=(0,))]
    monkeypatch.setattr(module, "ROWS", {each.name: each for each in rows})
    monkeypatch.setattr(module, "ORDERINGS", (Ordering("one", "two", 10.0, "accuracy", "a paper"),))

    @contextmanager
    def threads(processes):
        with ThreadPoolExecutor(processes) as pool:
            yield pool

    monkeypatch.setattr(module, "workers", threads)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()

    def given(*arguments):
        monkeypatch.setattr(sys, "argv", ["everlearn", "bench", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, capsys.readouterr()

    yield given
    torch.set_num_threads(before)


def test_a_row_that_passes_is_shown_and_written(bench, tmp_path):
    code, said = bench("one", "--data", str(tmp_path), "--processes", "1")
    assert code == 0
    assert "91.00 ± 1.00" in said.out
    assert "pass" in said.out
    written = json.loads((tmp_path / "published.json").read_text())
    assert written["rows"]["one"]["scores"]["accuracy"]["values"] == {"0": 90, "1": 91, "2": 92}
    assert len(list((tmp_path / "published.runs").iterdir())) == 3


def test_what_is_done_is_not_run_again(bench, tmp_path):
    bench("one", "--data", str(tmp_path), "--seeds", "2")
    bench("one", "--data", str(tmp_path), "--seeds", "4")
    assert sorted(measured(tmp_path)) == [0, 1, 2, 3]


def test_a_row_that_fails_is_an_exit_code(bench, tmp_path):
    code, said = bench("two", "one", "--data", str(tmp_path))
    assert code == 1
    assert "FAIL" in said.out
    assert "one - two" in said.out


def test_a_run_that_breaks_is_named_and_the_others_are_shown(bench, tmp_path):
    code, said = bench("o*", "broken", "--data", str(tmp_path))
    assert code == 1
    assert "broken ended with an error: ValueError: seed 0 went wrong" in said.out
    assert "91.00 ± 1.00" in said.out


def test_an_interruption_is_said_to_lose_nothing(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS", {"stopped": row("stopped", interrupted=1)})
    code, said = bench("stopped", "--data", str(tmp_path), "--processes", "1")
    assert code == 130
    assert "What is done is kept" in said.out


def test_the_data_may_be_named_by_the_environment(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLEARN_DATA", str(tmp_path))
    assert bench("one")[0] == 0


def test_missing_data_is_an_error_for_a_row_that_was_asked_for_and_a_line_for_others(bench, tmp_path):
    code, said = bench("one", "--data", str(tmp_path / "nowhere"))
    assert code == 2
    assert "there is no" in said.err
    code, said = bench("o*", "--data", str(tmp_path / "nowhere"))
    assert "one is left out: there is no" in said.out


def test_a_row_that_there_is_not_is_refused_with_the_nearest(bench):
    code, said = bench("ones")
    assert code == 2
    assert "there is no row 'ones'" in said.err
    assert "did you mean 'one'?" in said.err


def test_the_list_has_all_rows_and_runs_none(bench, tmp_path):
    for arguments in (["--list"], []):
        code, said = bench(*arguments)
        assert code == 0
        assert all(name in said.out for name in ("one", "two", "three", "naive", "a paper"))
    assert not measured(tmp_path)


def test_a_page_is_filled(bench, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- published -->\n\n<!-- end -->\n")
    bench("one", "--data", str(tmp_path), "--docs", str(page))
    assert "| one | accuracy | 91.00 ± 1.00 | 3 | 91.00 ± 1.00 |" in page.read_text()


def test_what_is_not_random_is_run_once(bench, tmp_path, monkeypatch):
    sure = row("sure", theirs=Published(90.0, 0.0, 1, slack=0))
    monkeypatch.setattr(module, "ROWS", {"sure": sure.__class__(**{**vars(sure), "random": False})})
    assert bench("sure", "--data", str(tmp_path), "--seeds", "5")[0] == 0
    assert measured(tmp_path) == [0]


def test_a_device_is_for_rows_that_can_run_there(bench, tmp_path):
    code, said = bench("one", "--device", "cuda", "--data", str(tmp_path))
    assert code == 2
    assert "one runs on the CPU only; leave --device out" in said.out + said.err
    _, said = bench("tw*", "--device", "cuda", "--data", str(tmp_path))
    assert "two is left out: two runs on the CPU only" in said.out + said.err
    assert measured(tmp_path) == []


def test_a_page_of_the_documentation_names_its_rows():
    pages = ("published", "transfer", "online")
    found = {page: module.chosen([page]) for page in pages}
    assert all({row.page for row in rows} == {page} for page, rows in found.items())
    assert sum(map(len, found.values())) == len(module.chosen(["all"]))
