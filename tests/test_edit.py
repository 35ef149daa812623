"""Values of a parameter file are changed in place."""

from __future__ import annotations

from pathlib import Path

from ilse.core.yaml_edit import set_values


def test_a_mapping_takes_the_place_of_a_value_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("prepare:\n  path: news.csv\n  use: whole # all of it\n\n# next\nextract: {}\n")
    set_values(file, "prepare", {"path": {"test": "other.csv"}})
    assert file.read_text() == (
        "prepare:\n  path:\n    test: other.csv\n  use: whole # all of it\n\n# next\nextract: {}\n"
    )


def test_a_linked_file_stays_linked(tmp_path: Path) -> None:
    """Of several projects with one parameter file, none has its own of a sudden."""
    (tmp_path / "shared.yaml").write_text("prepare: {path: a}\n")
    (tmp_path / "params.yaml").symlink_to("shared.yaml")
    set_values(tmp_path / "params.yaml", "prepare", {"path": "b"})
    assert (tmp_path / "params.yaml").is_symlink()
    assert (tmp_path / "shared.yaml").read_text() == "prepare: {path: b}\n"
