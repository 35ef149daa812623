"""Comparisons keep their word: a short run of the simulations of `benchmarks.statistics`, always the same."""

from __future__ import annotations

import json

import pytest

from benchmarks.statistics import FAMILIES, Setting, main, of_families, of_pairs, of_scores, within_two_points

# 300 simulations: the standard error of a rate of 5 % is 1.3 %.


def test_equal_heads_whose_seeds_vary_seem_different_at_the_stated_rate() -> None:
    rates = of_pairs(Setting(3, 2000, (1.0, 1.0)), 300)
    assert 2 <= rates["false_alarms"] <= 8.5
    assert rates["coverage"] == pytest.approx(100 - rates["false_alarms"])
    assert rates["examples_alone_false_alarms"] > 20  # what seeds do to those who do not count them


def test_equal_heads_whose_seeds_do_not_vary() -> None:
    rates = of_pairs(Setting(5, 500), 300)
    assert 2 <= rates["false_alarms"] <= 8.5
    assert rates["mcnemar_false_alarms"] <= 5


def test_a_true_gain_is_found() -> None:
    rates = of_pairs(Setting(5, 2000, (0.5, 0.5), gain=2.0), 300)
    assert rates["power"] > 80
    assert 91.5 <= rates["coverage"] <= 98


def test_among_five_equal_heads_none_seems_different() -> None:
    rates = of_families(FAMILIES[0], 200)
    assert rates["holm"] <= 9
    assert rates["uncorrected"] > rates["holm"]


def test_the_resampling_way_keeps_its_rate() -> None:
    rates = of_scores(Setting(3, 100), 100)
    assert 0 < rates["false_alarms"] <= 11


def test_the_benchmark_ends_with_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["statistics", "--simulations", "2"])
    main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["simulations"] == 2
    assert len(found["equal"]) == len(found["better"]) == 8
    assert found["within_two_points"] == within_two_points(found)
    good = {name: {"x": {"false_alarms": 5.0, "holm": 4.0}} for name in found if isinstance(found[name], dict)}
    assert within_two_points(good)
    assert not within_two_points(good | {"equal_hard": {"x": {"false_alarms": 7.1}}})
    assert not within_two_points(good | {"families": {"x": {"holm": 7.1}}})
