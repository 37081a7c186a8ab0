"""The examples run, and the wheel holds all that they need."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.dark_cells import picture

ROOT = Path(__file__).parents[1]


def run(*words: str | Path, **how) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_look_runs_on_synthetic_pictures_and_on_those_of_a_folder(tmp_path):
    said = run(ROOT / "examples/first_look.py", cwd=tmp_path)
    assert "patient-01_field-1.jpg: mask (512, 640) bool" in said
    assert said.count("patient-") == 9  # one picture, and the eight of the table
    (tmp_path / "slide.png").write_bytes(picture(3))
    assert "slide.png" in run(ROOT / "examples/first_look.py", tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's content: what it needs comes from the environment, spermseg from nowhere else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # what is left of an earlier build in the checkout would get into the wheel
    shutil.copytree(ROOT / "spermseg", source / "spermseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    run("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_works_outside_the_checkout(installed, tmp_path):
    (tmp_path / "slide.png").write_bytes(picture(3))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed), "HOME": str(tmp_path)}
    where = "import spermseg; print(spermseg.__file__)"
    assert run("-c", where, cwd=tmp_path, env=environment).startswith(str(installed))
    assert run("-m", "spermseg", "--version", cwd=tmp_path, env=environment) == "0.1.0\n"
    said = run("-m", "spermseg", "preview", "slide.png", "--out", "preview", cwd=tmp_path, env=environment)
    assert "1 of 1 pictures" in said
    assert (tmp_path / "preview" / "slide.png.jpg").exists()


def test_the_wheel_holds_no_tests(installed):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"spermseg"}
