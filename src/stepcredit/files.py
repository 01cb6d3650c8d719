"""Atomic writing of files, locking of folders, and reading with errors that name the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from stepcredit.errors import InputError, quoted

LOCK, HOLDER = ".lock", ".lock.json"
"""Files in a folder while a process writes to it: the lock, and a description of the process."""
_DRAFT = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.part")
"""Names of `draft_of`: a hash of the host name, the process id, and a random mark."""
_PATIENCE = 0.2  # seconds: the lock file of a process that has just finished may be gone before it is locked


def draft_of(path: Path) -> Path:
    """Returns a new hidden name beside a path, for a file or folder that is renamed to `path` once it is complete.

    `remove_leftovers` removes it if this process dies first.
    """
    return path.with_name(f".{path.name}.{_host_mark()}-{os.getpid()}-{secrets.token_hex(8)}.part")


def _host_mark() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Context manager of atomic writing: yields a temporary path that replaces `path` unless the block raises."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next((folder for folder in path.parents if folder.exists()), path.parent)
        raise InputError(f"cannot be written, because {file} is a file", str(path)) from error
    part = draft_of(path)
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        raise InputError(why_not_written(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Context manager of atomic writing of a folder: yields a temporary folder that replaces `folder` unless the block
    raises.

    Raises:
        InputError: the folder cannot be written.
    """
    part, old = draft_of(folder), draft_of(folder)
    try:
        part.mkdir(parents=True)
        yield part
        sync_all(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync(folder.parent)
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise InputError(why_not_written(error), str(folder)) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_TORCH = ("PytorchStreamWriter", "unexpected pos", "iostream error")
_FULL_WORDS = ("os error 28", "os error 27", "No space left", "File too large", *_OF_TORCH)
"""What safetensors, tokenizers and torch say where a disk is full: they give no error number."""


def is_write_failure(error: BaseException) -> bool:
    """Whether an error of torch, safetensors, tokenizers or the operating system is about writing a file."""
    return isinstance(error, OSError | SafetensorError) or is_full(error)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or a file as large as it may be."""
    return getattr(error, "errno", None) in _FULL or any(word in str(error) for word in _FULL_WORDS)


def why_not_written(error: BaseException) -> str:
    """Returns why something could not be written, for an error message, and what to do where the disk is full."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return f"cannot be written ({reason})" + ("; make space and run the command again" if is_full(error) else "")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Waits until a folder and all that is in it are on disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def write_json(path: Path, data: Any) -> None:
    """Writes indented JSON atomically."""
    with written_whole(path) as part:
        part.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object per line, atomically."""
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def locked(folder: str | Path, doing: str, wait: float = 0.0) -> Iterator[None]:
    """Locks a folder for this process; creates it if missing, and removes it if it stays empty.

    The operating system releases the lock when the process ends. A thread may lock a folder repeatedly. Commands must
    check the contents of the folder under the lock.

    Args:
        folder: the folder to write to.
        doing: name of the command, for the error of other processes, such as "stepcredit collect".
        wait: seconds to wait if another process has locked the folder.

    Raises:
        InputError: another process (named in the message) has locked the folder, or it cannot be written.
    """
    folder = Path(folder).absolute()
    lock = FileLock(folder / LOCK, is_singleton=True)
    if lock.is_locked:
        yield
        return
    with removed_if_empty(folder):
        try:
            _acquire(lock, folder, max(wait, _PATIENCE))
        except Timeout:
            raise InputError(f"is being written by {_holder(folder)}; wait for it, or choose another --output_dir",
                             str(folder)) from None  # fmt: skip
        except OSError as error:
            raise InputError(why_not_written(error), str(folder)) from error
        try:
            remove_leftovers(folder)
            about = {"doing": doing, "pid": os.getpid(), "host": socket.gethostname()}
            write_json(folder / HOLDER, {**about, "since": datetime.now().strftime("%Y-%m-%d %H:%M")})
            yield
        finally:
            (folder / HOLDER).unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)  # before the release, so that a waiting process locks a new file
            lock.release()


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Context manager at whose end a folder, and those above it, are removed if they were missing before and are
    empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Removes the half-written files and folders that dead processes of this host have left in a folder."""
    for path in folder.glob(".*.part"):
        match = _DRAFT.fullmatch(path.name)
        if match and match[1] == _host_mark() and not _is_alive(int(match[2])):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _acquire(lock: FileLock, folder: Path, wait: float, again: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(wait)
    except FileNotFoundError:  # the folder has gone with a process that wrote nothing into it
        if not again:
            raise
        _acquire(lock, folder, wait, again - 1)


def _holder(folder: Path) -> str:
    """Describes the process that has locked a folder."""
    try:
        about = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return "`{doing}` (process {pid} on {host}, since {since})".format(**about)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def holds_something(folder: Path, besides: Collection[str] = ()) -> bool:
    """Whether a folder exists and has contents other than the files `besides`.

    The lock, and hidden temporary files of killed processes, do not count.

    Raises:
        InputError: the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file; give a folder", str(folder))
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    left = [name for name in names if not (name.startswith(".") and name.endswith(".part"))]
    return not {LOCK, HOLDER, *besides}.issuperset(left)


def read_manifest(path: Path, names: Collection[str] = ()) -> dict[str, Any]:
    """Reads a JSON object written by a command.

    Args:
        path: the file.
        names: required keys.

    Raises:
        InputError: the file is damaged.
    """
    try:
        read = read_json(path)
    except InputError as error:
        raise InputError(f"damaged or half-written, {error.what}; {_MEND}", str(path)) from error
    if not isinstance(read, dict) or not read or not set(names) <= read.keys():
        raise InputError(f"damaged or half-written, {read!r:.40} in place of settings; {_MEND}", str(path))
    return read


_MEND = "restore it, or choose another --output_dir"


def changed_settings(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns the names of settings that differ between a manifest and the new settings; missing ones count as None."""
    as_kept = json.loads(json.dumps(wanted, default=str))
    return sorted(name for name in {*kept, *as_kept} if kept.get(name) != as_kept.get(name))


def read_json(path: Path) -> object:
    """Reads a JSON file; NaN and Infinity are allowed.

    Raises:
        InputError: the file cannot be read, or is not UTF-8 or JSON.
    """
    try:
        payload: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON ({error.msg})", f"{path}, line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", str(path)) from error
    except (RecursionError, ValueError) as error:
        raise InputError("is not JSON that can be read: nested too deep, or a number with thousands of digits",
                         str(path)) from error  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path)) from error
    return payload


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a YAML file of settings.

    Raises:
        InputError: the file cannot be read, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        read = yaml.load(file.read_text(encoding="utf-8"), _loader())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(file)) from error
    except RecursionError as error:
        raise InputError("is not YAML of settings: nested too deep", str(file)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"is not YAML: {error}", str(file)) from error
    if not isinstance(read, dict):
        raise InputError("must be a mapping of settings to values", str(file))
    for name in read:
        if not isinstance(name, str):
            raise InputError(f"the name of a setting must be text, not {quoted(name)}", str(file))
    return read


def _loader() -> Any:
    """PyYAML's safe loader, which also refuses a setting that is given twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key) for key, _ in node.value]
            for name in names:
                if isinstance(name, str) and names.count(name) > 1:
                    raise yaml.YAMLError(f"{name} is given twice")
            return super().construct_mapping(node, deep)

    return Loader
