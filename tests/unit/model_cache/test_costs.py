"""What models take: from their files at first, then as it was measured, also after a restart and under other names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ndserve.model_cache.costs import OVERHEAD, Cost, Costs
from ndserve.model_info import ModelOptions
from tests.unit.model_cache.loads import info

M = info("m", 1000, largest=300)
LIMIT = 1_000_000


def test_a_model_that_was_never_loaded_takes_its_files_and_during_the_load_its_largest_weight_twice() -> None:
    resident = 1000 + OVERHEAD
    assert Costs(None, "cpu", LIMIT).cost(M, "d") == Cost(resident, resident + 300, measured=False)


def test_a_model_that_was_measured_takes_that() -> None:
    costs = Costs(None, "cpu", LIMIT)
    costs.note(M, "d", 700)
    assert costs.cost(M, "d") == Cost(700, 1000, measured=True)


def test_what_was_measured_outlives_the_process(tmp_path: Path) -> None:
    Costs(tmp_path / "costs.json", "cpu", LIMIT).note(M, "d", 700)
    assert Costs(tmp_path / "costs.json", "cpu", LIMIT).cost(M, "d").resident == 700


def test_what_was_measured_counts_under_any_name(tmp_path: Path) -> None:
    costs = Costs(None, "cpu", LIMIT)
    costs.note(M, "d", 700)
    assert costs.cost(info("other", 1000), "d").resident == 700


def test_another_content_another_runtime_and_other_providers_have_sizes_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs = Costs(path, "cpu", LIMIT)
    costs.note(M, "d", 700)
    others = replace(M, options=ModelOptions(providers=("cpu",)))
    assert not costs.cost(M, "e").measured
    assert not costs.cost(others, "d").measured
    assert not Costs(path, "cuda", LIMIT).cost(M, "d").measured


def test_the_least_that_was_measured_counts_since_others_may_have_taken_memory_meanwhile() -> None:
    costs = Costs(None, "cpu", LIMIT)
    for nbytes in (900, 700, 800):
        costs.note(M, "d", nbytes)
    assert costs.cost(M, "d").resident == 700


def test_more_than_the_whole_budget_is_not_believed() -> None:
    costs = Costs(None, "cpu", LIMIT)
    costs.note(M, "d", LIMIT + 1)
    assert not costs.cost(M, "d").measured


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}', '{"a": null}', "\x00"])
def test_a_file_that_says_nothing_useful_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "costs.json").write_text(content)
    assert not Costs(tmp_path / "costs.json", "cpu", LIMIT).cost(M, "d").measured


def test_a_file_that_cannot_be_written_costs_only_the_knowledge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    costs = Costs(tmp_path / "missing" / "costs.json", "cpu", LIMIT)
    costs.note(M, "d", 700)
    assert costs.cost(M, "d").resident == 700
    assert "cannot be kept" in caplog.text


def test_of_too_many_sizes_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndserve.model_cache.costs.MAX_KNOWN", 2)
    costs = Costs(tmp_path / "costs.json", "cpu", LIMIT)
    for digest in ("a", "b", "c"):
        costs.note(M, digest, 700)
    assert [costs.cost(M, digest).measured for digest in "abc"] == [False, True, True]
    assert len(json.loads((tmp_path / "costs.json").read_text())) == 2
