"""The error that a user meets is also the error of Python that its kind is."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import field_validator

import ilse
from ilse.core.errors import FailedError, MissingError, UserError
from ilse.core.files.folder_lock import hold_folder
from ilse.core.params import Section, validate


@pytest.mark.parametrize("kind", [UserError, MissingError, FailedError])
def test_every_kind_keeps_its_parts_and_goes_between_processes(kind: type[UserError]) -> None:
    error = kind("file a", expected="one", found="two", next_step="count again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.where, again.expected, again.found, again.next_step) == ("file a", "one", "two", "count again")
    assert isinstance(error, ValueError)


def test_what_is_missing_is_a_file_not_found(tmp_path: Path) -> None:
    for call in (
        lambda: ilse.open_cache(tmp_path / "none.zarr"),
        lambda: ilse.Predictor.from_pretrained(tmp_path / "none"),
        lambda: ilse.extract(["a text"], model=tmp_path / "none"),
    ):
        with pytest.raises(FileNotFoundError, match="expected: ") as raised:
            call()
        assert isinstance(raised.value, ilse.UserError)
        assert raised.value.errno is None


def test_another_run_in_the_folder_is_a_runtime_error(tmp_path: Path) -> None:
    with (
        hold_folder(tmp_path / "held", "folder"),
        pytest.raises(RuntimeError, match="one run at a time") as raised,
        hold_folder(tmp_path / "held", "folder"),
    ):
        pass
    assert isinstance(raised.value, ilse.UserError)


def test_a_value_is_a_value_error_whether_it_is_read_from_a_file_or_given() -> None:
    class Options(Section):
        at: int = 0

        @field_validator("at")
        @classmethod
        def _small(cls, at: int) -> int:
            raise UserError("option at", expected="a small one", found=str(at), next_step="take less")

    with pytest.raises(ValueError, match="expected: a small one"):
        validate("options", Options, {"at": 7})
    with pytest.raises(ValueError, match="expected: one of at"):
        validate("options", Options, {"att": 7})
