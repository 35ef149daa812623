"""Typing mistakes: how many, which, always the same; and a cache of noisy texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline import store
from pipeline.capture.noise import BESIDE, noised
from pipeline.config import NoiseParams
from pipeline.stages.inspect import describe
from tests.pipeline.conftest import sentence
from tests.pipeline.extractions import params_for, run

TEXT = "The quick brown fox jumps over the lazy dog, and 12 others look on. " * 40
ID = "0123456789abcdef0123456789abcdef"
LETTERS = sum(character.isalnum() for character in TEXT)


def noise(characters: float = 0.0, keyboard: float = 0.0, splits: float = 0.0, seed: int = 0) -> store.NoiseSpec:
    return store.NoiseSpec(characters, keyboard, splits, seed)


def test_mistakes_are_the_same_for_a_text_and_a_seed_and_others_for_another() -> None:
    spec = noise(0.1, 0.1, 0.05)
    assert noised(TEXT, ID, spec) == noised(TEXT, ID, spec)
    others = {noised(TEXT, "f" * 32, spec), noised(TEXT, ID, noise(0.1, 0.1, 0.05, seed=1)), TEXT}
    assert len(others | {noised(TEXT, ID, spec)}) == 4


def test_what_a_seed_gives_stays_as_it_is() -> None:
    """Caches say which noise made them: another one under the same name would be other texts."""
    assert noised("Chip maker's profit falls", ID, noise(0.1, 0.1, 0.05, seed=3)) == "Chip makerr's lrofif fallw"


def test_neighbouring_keys_take_the_place_of_their_share() -> None:
    found = noised(TEXT, ID, noise(keyboard=0.2))
    assert len(found) == len(TEXT)
    changed = [(a, b) for a, b in zip(TEXT, found, strict=True) if a != b]
    assert all(b.lower() in BESIDE[a.lower()] and a.isupper() == b.isupper() for a, b in changed)
    assert len(changed) == pytest.approx(0.2 * LETTERS, abs=4 * (0.16 * LETTERS) ** 0.5)


def test_keys_are_beside_each_other_both_ways() -> None:
    assert all(key in BESIDE[other] for key, near in BESIDE.items() for other in near)
    assert set(BESIDE["s"]) == set("adwezx")


def test_splits_are_spaces_within_words_alone() -> None:
    found = noised(TEXT, ID, noise(splits=0.2))
    assert found.replace(" ", "") == TEXT.replace(" ", "")
    assert "  " not in found
    assert 0.1 * LETTERS < len(found) - len(TEXT) < 0.2 * LETTERS


def test_changes_leave_out_double_replace_and_exchange() -> None:
    found = {noised("abcd", f"{i:032x}", noise(characters=0.3)) for i in range(400)}
    assert {"bcd", "aabcd", "bacd"} <= found
    assert any(len(one) == 4 and sorted(one) != list("abcd") for one in found)
    assert all(noised("猫が好き", f"{i:032x}", noise(characters=1.0)).strip() for i in range(50))


def test_a_text_never_becomes_empty_and_white_space_stays() -> None:
    assert {noised("a", f"{i:032x}", noise(characters=1.0)) for i in range(50)} <= {"a", "aa"}
    assert noised("?!  \n", ID, noise(characters=1.0)) == "?!  \n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "whose sum is above 0"),
        ({"characters": 0.7, "keyboard": 0.7}, "at most 1"),
        ({"keyboard": 2}, "less than or equal to 1"),
        ({"typos": 0.1}, "unknown key 'typos'"),
    ],
)
def test_shares_that_mean_nothing_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as refused:
        validate("extract.noise", NoiseParams, given, where="params.yaml")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [((2.0, 0.0, 0.0, 0), "noise.characters"), ((0.0, 0.0, 0.0, 0), "more than 0"), ((0.1, 0.0, 0.0, -1), "seed")],
)
def test_a_spec_cannot_exist_invalid(given: tuple[float, float, float, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        store.NoiseSpec(*given)


def test_a_cache_of_noisy_texts_has_their_ids_and_the_rows_of_what_was_typed(
    llama: Path, texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    """The clean cache lends it nothing, nor it the clean one; its rows are those of the noisy texts, given as texts."""
    texts = [sentence(i) for i in range(6)]
    table, own = texts_table(6, texts), {"keyboard": 0.3, "seed": 4}
    run(params_for(llama), table, tmp_path / "clean")
    clean = store.open_cache(tmp_path / "clean" / "cache.zarr")
    donors = [str(tmp_path / "clean" / "cache.zarr")]
    figures = run(params_for(llama, noise=own, donors=donors), table, tmp_path / "noisy")
    noisy = store.open_cache(tmp_path / "noisy" / "cache.zarr")
    assert figures["texts_computed"] == 6
    assert noisy.text_ids() == clean.text_ids()
    typed = [noised(t, i, noise(keyboard=0.3, seed=4)) for t, i in zip(texts, clean.text_ids(), strict=True)]
    run(params_for(llama), texts_table(6, typed), tmp_path / "typed")
    expected = store.open_cache(tmp_path / "typed" / "cache.zarr").gather(np.arange(6))
    np.testing.assert_array_equal(noisy.gather(np.arange(6)), expected)
    assert (noisy.gather(np.arange(6)) != clean.gather(np.arange(6))).any()
    assert "noise         shares of characters 0.3 mistyped; seed 4" in describe(str(tmp_path / "noisy" / "cache.zarr"))
    assert "noise" not in clean.header.capture.document()
