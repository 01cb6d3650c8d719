"""The wheel holds every file of the package, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stepcredit

PACKAGE = Path(stepcredit.__file__).parent
ROOT = PACKAGE.parent.parent


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs a checkout")
def test_the_wheel_is_whole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src"):
        (source / name).symlink_to(ROOT / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("stepcredit-*.whl")
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if name.startswith("stepcredit/")}
        about = next(name for name in file.namelist() if name.endswith("METADATA"))
        metadata = file.read(about).decode()
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {f"stepcredit/{path.relative_to(PACKAGE).as_posix()}" for path in files}
    assert f"Version: {stepcredit.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
