"""Builds llama.cpp's server into the cache of the assets, from the source package of llama-cpp-python on PyPI.

    python tests/assets/llama_server.py

It takes cmake, a C++ compiler and, on one core, about half an hour; a build that was interrupted goes on where it
stopped. Only `llama-server` is built, for the processor at hand, without web pages and downloads.
"""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from fetch import OPTIONS, cache, sha256_of

REQUIREMENT = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "ON", "GGML_OPENMP": "OFF",
    "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF", "LLAMA_OPENSSL": "OFF",
}  # fmt: skip


def main() -> int:
    """Builds what is missing; one line tells what failed."""
    folder = cache() / "llama-server"
    binary, work = folder / "llama-server", folder / "build"
    if binary.is_file():
        print(f"llama-server: {binary} is there")
        return 0
    try:
        _build(binary, work)
    except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"llama-server: not built: {told[-1] if told else error}", file=sys.stderr)
        return 1
    shutil.rmtree(work)
    print(f"llama-server: {binary}")
    return 0


def _build(binary: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    source = work / "source"
    if not source.is_dir():
        pip = [sys.executable, *OPTIONS["pip"].split(), str(work), "--no-binary", "llama-cpp-python", REQUIREMENT]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        (archive,) = work.glob("llama_cpp_python-*.tar.gz")
        if (found := sha256_of(archive)) != SHA256:
            archive.unlink()
            raise OSError(f"{REQUIREMENT} has the SHA-256 {found}, pinned is {SHA256}")
        with tarfile.open(archive) as tar:
            tar.extractall(work / "unpacked", filter="data")
        archive.unlink()
        (root,) = (work / "unpacked").iterdir()
        (root / "vendor" / "llama.cpp").rename(source)
    flags = [f"-D{name}={value}" for name, value in SETTINGS.items()]
    made = work / "made"
    subprocess.run(["cmake", "-S", source, "-B", made, *flags], check=True, capture_output=True, text=True)
    subprocess.run(["cmake", "--build", made, "-j1", "--target", "llama-server"], check=True)
    shutil.copy2(made / "bin" / "llama-server", binary.with_suffix(".part"))
    binary.with_suffix(".part").rename(binary)


if __name__ == "__main__":
    sys.exit(main())
