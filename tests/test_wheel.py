"""What users install: the wheel and the source archive, built from the repository, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    "": ["ilse", "ilse.cli", "pipeline.store"],
    "extract": ["pipeline.library", "pipeline.stages.extract"],
    "train": ["trainer.library", "trainer.report", "ilse.comparing", "ilse.fitting"],
    "tune": ["trainer.stages.tune", "trainer.stages.auto"],
    "predict": ["ilse.predict", "ilse.text_classifier"],
    "export": ["trainer.export"],
    "lora": ["ilse.finetune.lora"],
    "mteb": ["ilse.predict.mteb_encoder", "ilse.predict.sentence_transformer"],
}
"""Extra → modules that are for those who have it."""
SCRIPT = """
import ilse

cache = ilse.extract(["a", "b"], ["x", "y"], model="m", out="d")
head: ilse.TrainedHead = ilse.fit(cache, head="last")
classifier: ilse.HeadClassifier = ilse.fit(cache[:], ["x", "y"])
found = ilse.compare([head])
reveal_type(found)
reveal_type(cache.shape)
reveal_type(ilse.Predictor.from_head(head, model="m"))
wrong: str = cache.shape
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it and not from the repository."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "repository"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):  # what git does not know is nobody's to ship
        if name.split("/")[0] in ("ilse", "pipeline", "trainer", "pyproject.toml", "README.md", "LICENSE", "tests"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as b, sys; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    command = [sys.executable, "-c", build]
    subprocess.run([*command, "build_sdist", str(place)], cwd=source, check=True, capture_output=True)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    subprocess.run([*command, "build_wheel", str(place)], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_all_that_runs_and_nothing_else(archives: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(archives[1]).namelist()
    shipped = {name for name in names if ".dist-info/" not in name}
    asked = subprocess.run(
        ["git", "ls-files", "ilse", "pipeline", "trainer"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shipped == set(asked.stdout.split())
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.network
def test_a_bare_environment_opens_a_cache(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """With its dependencies from the registry, and none of the extras."""
    from tests.pipeline.caches import header, random_rows, write

    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(archives[1])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, cwd=tmp_path, env=environment, check=True, capture_output=True)
    cache = tmp_path / "cache.zarr"
    write(cache, header(), random_rows(header()))
    code = f"import ilse; cache = ilse.open_cache({str(cache)!r}); print(cache.shape, cache[0].dtype)"
    found = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "float32" in found.stdout
    _type_check(tmp_path / "script.py", python)
    train = [home / "bin" / "ilse", "train"]
    told = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 2
    assert "pip install 'ilse-cache[train]'" in told.stderr


def _type_check(script: Path, python: Path) -> None:
    """mypy strict sees our types in the wheel that is installed there."""
    pytest.importorskip("mypy", reason="needs the extra 'dev'")
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", str(python)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command += ["--cache-dir", str(script.parent / "types"), str(script)]
    said = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True).stdout
    assert 'Revealed type is "ilse.comparing.Comparison"' in said
    assert 'Revealed type is "tuple[int, int, int]"' in said.replace("builtins.", "")
    assert 'Revealed type is "ilse.predict.predictor.Predictor"' in said
    errors = [line for line in said.splitlines() if ": error:" in line]
    assert len(errors) == 1, said
    assert "tuple[int, int, int]" in errors[0].replace("builtins.", "")


@pytest.mark.slow
def test_every_extras_modules_import_from_the_wheel(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside the packages of this environment, and far from the repository."""
    with zipfile.ZipFile(archives[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    modules = [name for names in MODULES.values() for name in names]
    code = "\n".join(
        [
            "import importlib, pathlib, sys",
            f"sys.path.insert(0, {str(tmp_path / 'site')!r})",
            f"for name in {modules!r}:",
            "    found = importlib.import_module(name)",
            f"    assert pathlib.Path(found.__file__).is_relative_to({str(tmp_path / 'site')!r}), found.__file__",
        ]
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
