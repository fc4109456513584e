"""Answers are found by key, whoever wrote them and whether they are still in the log or folded into the index."""

from __future__ import annotations

import os
import random

import pytest

from orchestrai.ledger import answers as answers_module
from orchestrai.ledger.answers import RecentAnswers
from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.rows import LoggedAnswer, insert


@pytest.fixture
def file(tmp_path):
    file = LedgerFile(tmp_path / "ledger")
    yield file
    file.close()


@pytest.fixture(params=[5, 4096])
def fold_at(request, monkeypatch):
    monkeypatch.setattr(answers_module, "FOLD_AT", request.param)
    return request.param


def write(file, known, answers):
    """Log answers as the ledger's thread does."""

    def work(connection):
        known.catch_up(connection)
        insert(connection, LoggedAnswer, known.add(connection, answers))

    file.write(work)


def test_what_was_logged_is_found_newest_first_by_everybody(file, fold_at):
    chance = random.Random(4)
    mine, theirs, reader = RecentAnswers(), RecentAnswers(), RecentAnswers()
    keys = [os.urandom(16) for _ in range(60)]
    expected: dict[bytes, list[int]] = {}
    request = 0
    for _ in range(80):
        some = []
        for key in chance.sample(keys, chance.randint(1, 4)):
            request += 1
            some.append((key, request))
            expected.setdefault(key, []).insert(0, request)
        write(file, chance.choice((mine, theirs)), some)
        wanted = chance.sample(keys, 20)
        found = file.read(lambda c, wanted=wanted: reader.find(c, wanted))
        assert found == {key: expected[key] for key in wanted if key in expected}
    fresh = RecentAnswers()
    assert file.read(lambda c: fresh.find(c, keys)) == expected


def test_an_answer_that_came_after_a_look_is_always_noticed(file, fold_at):
    mine, theirs = RecentAnswers(), RecentAnswers()
    key, others = os.urandom(16), [os.urandom(16) for _ in range(12)]
    write(file, mine, [(others[0], 1)])
    seen = mine.newest
    assert file.write(lambda c: mine.catch_up(c) or mine.came_since(c, {key: seen})) == set()
    write(file, theirs, [(key, 2)])
    for number, other in enumerate(others, 3):  # enough to fold the answer away where that happens early
        write(file, theirs, [(other, number)])
    assert file.write(lambda c: mine.catch_up(c) or mine.came_since(c, {key: seen})) == {key}
    assert file.write(lambda c: mine.catch_up(c) or mine.came_since(c, {key: mine.newest})) == set()


def test_a_log_of_thousands_is_folded_and_its_numbers_go_on(file, monkeypatch):
    monkeypatch.setattr(answers_module, "FOLD_AT", 50)
    known = RecentAnswers()
    for number in range(1, 121):
        write(file, known, [(number.to_bytes(16), number)])
    logged, newest = file.read(lambda c: c.execute("SELECT count(*), max(seq) FROM answer_log").fetchone())
    assert (logged, newest) == (20, 120)
    assert file.read(lambda c: c.execute("SELECT count(*) FROM answer_keys").fetchone()) == (100,)
    assert file.read(lambda c: c.execute("SELECT upto FROM answer_fold").fetchone()) == (100,)
