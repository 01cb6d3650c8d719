"""Logs of Inspect: `.eval` (a zip with one JSON file per sample) and `.json` (one object).

A sample's prompt is its messages before the first that was generated. C, P, I and N are 1, 0.5, 0 and 0, as Inspect
counts them. Every score is a column with the name of its scorer (`scorer.key` where it has several values), "undecided"
where it could not be computed; where there is one, it is the reward, else `--columns reward=scorer` chooses. A sample
with an error, or stopped by a person, is undecided; one that a limit stopped is truncated. Tools are those of the
sample's first call of the model; changes of them later in the sample are not read.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stepcredit.errors import InputError
from stepcredit.logs.columns import shown
from stepcredit.logs.foreign.chat_calls import NO_RESPONSE, as_function
from stepcredit.logs.formats import Row, checked
from stepcredit.verdict import Verdict

MOST_BYTES = 256 * 2**20
"""Bytes that the JSON of one sample may have."""
_ZSTANDARD = 93
_LOCAL_HEADER = 30
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_ATTACHMENT = "attachment://"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def is_inspect_log(file: str | Path) -> bool:
    """Whether a file is an `.eval`, or a `.json` that is one object instead of a list of rows."""
    path = Path(file)
    if not path.is_file() or path.suffix.lower() not in (".eval", ".json"):
        return path.suffix.lower() == ".eval"
    if path.suffix.lower() == ".eval":
        return True
    with path.open("rb") as stream:
        return b'"eval"' in (start := stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")) and start[:1] == b"{"


def read_inspect_log(file: str | Path) -> Iterator[Row]:
    """Reads the samples of a log, one row per sample and epoch.

    Raises:
        InputError: the file does not exist, or is no log, or has no samples.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", str(path))
    return _read_zip(path) if path.suffix.lower() == ".eval" else _read_json(path)


def _read_zip(path: Path) -> Iterator[Row]:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise InputError(f"no log of Inspect, or a damaged one ({error})", str(path)) from error
    with archive:
        entries = [e for e in archive.infolist() if e.filename.startswith("samples/") and e.filename.endswith(".json")]
        if not entries:
            raise InputError("the log has no samples", str(path))
        for number, entry in enumerate(entries, 1):
            where, progress = f"{path}: sample {number}", number / len(entries)
            try:
                data = _row(_parsed(_unpacked(archive, entry)))
            except InputError as error:
                yield Row(where, progress, error=InputError(str(error), where), raw=entry.filename)
            else:
                yield Row(where, progress, data)


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        if entry.compress_type == _ZSTANDARD:
            content = _unpacked_zstandard(archive, entry)
        else:
            with archive.open(entry) as stream:
                content = stream.read(MOST_BYTES + 1)
    except _DAMAGE as error:
        raise InputError(f"damaged, or compressed in an unknown way ({error})") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"more than {MOST_BYTES:,} bytes")
    return content


def _unpacked_zstandard(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry that Python's zipfile cannot decompress before 3.14, up to one byte over the limit."""
    with open(str(archive.filename), "rb") as file:
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("no entry where the directory says")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(min(entry.compress_size, MOST_BYTES))
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        content = bytes(stream.read(MOST_BYTES + 1))
    if len(content) <= MOST_BYTES and zlib.crc32(content) != entry.CRC:
        raise zipfile.BadZipFile("wrong checksum")
    return content


def _read_json(path: Path) -> Iterator[Row]:
    try:
        log = _parsed(path.read_bytes())
    except InputError as error:
        raise InputError(str(error), str(path)) from error
    samples = log.get("samples") if isinstance(log, Mapping) else None
    if not isinstance(samples, list) or not samples:
        raise InputError("expected a list of rows, or a log of Inspect with samples", str(path))
    for number, sample in enumerate(samples, 1):
        where, progress = f"{path}: sample {number}", number / len(samples)
        try:
            data = _row(sample)
        except InputError as error:
            yield Row(where, progress, error=InputError(str(error), where), raw=json.dumps(sample))
        else:
            yield Row(where, progress, data)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"invalid JSON: {error}") from error


def _row(sample: Any) -> dict[str, Any]:
    """A sample with our columns.

    Raises:
        InputError: a field is missing or wrong.
    """
    if not isinstance(sample, Mapping):
        raise InputError(f"a sample must be an object, not {shown(sample)}")
    attachments = given if isinstance(given := sample.get("attachments"), Mapping) else {}
    prompt, completion = _turns(sample, attachments)
    scores = _scores(sample.get("scores"))
    kept = {
        name: sample[name] for name in ("id", "epoch", "target", "metadata", "uuid") if sample.get(name) is not None
    }
    row = {**scores, **kept, "prompt": prompt, "completion": completion, **_end(sample)}
    if tools := _tools(sample.get("events")):
        row["tools"] = _attached(tools, attachments)
    if len(scores) == 1:
        (row["reward"],) = scores.values()
    return checked(row)


def _turns(sample: Mapping[str, Any], attached: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    given = sample.get("messages") or sample.get("input")
    given = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(given, list) or not given or not all(isinstance(m, Mapping) for m in given):
        raise InputError(f"must be a list of messages, not {shown(given)}", "messages")
    messages = [_message(message, attached) for message in given]
    own = (k for k, m in enumerate(given) if m.get("role") == "assistant" and m.get("source") != "input")
    first = next(own, None)
    if first is not None:
        return messages[:first], messages[first:]
    if not sample.get("error"):
        raise InputError("no message of the model: nothing the policy wrote", "messages")
    return messages, [dict(NO_RESPONSE)]


def _tools(events: Any) -> list[Any]:
    """The tools of the first call of the model among a sample's events."""
    calls = (
        (e for e in events if isinstance(e, Mapping) and e.get("event") == "model") if isinstance(events, list) else ()
    )
    tools = next(iter(calls), {}).get("tools")
    return [as_function(tool) for tool in tools] if isinstance(tools, list) else []


def _attached(value: Any, attached: Mapping[str, Any]) -> Any:
    """A JSON value with all its attachments; see `_text`."""
    if isinstance(value, Mapping):
        return {key: _attached(inner, attached) for key, inner in value.items()}
    return [_attached(inner, attached) for inner in value] if isinstance(value, list) else _text(value, attached)


def _message(message: Mapping[str, Any], attached: Mapping[str, Any]) -> dict[str, Any]:
    ours = {"role": message.get("role"), "content": _text(message.get("content"), attached)}
    if isinstance(message.get("content"), list):
        parts = [part for part in message["content"] if isinstance(part, Mapping)]
        thoughts = [_text(part.get("reasoning"), attached) for part in parts if part.get("type") == "reasoning"]
        spoken = [part for part in message["content"] if not _is_reasoning(part)]
        ours["content"] = [
            {"type": "text", "text": _text(part.get("text"), attached)} if _is_text(part) else part for part in spoken
        ] or ""
        if thoughts:
            ours["reasoning_content"] = "".join(str(thought) for thought in thoughts if thought)
    if isinstance(message.get("tool_calls"), list) and message["tool_calls"]:
        ours["tool_calls"] = [as_function(call) for call in message["tool_calls"]]
    if message.get("role") == "tool":
        ours |= {
            ours_: message[k] for k, ours_ in (("tool_call_id", "tool_call_id"), ("function", "name")) if k in message
        }
    return ours


def _is_reasoning(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "reasoning"


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text"


def _text(value: Any, attached: Mapping[str, Any]) -> Any:
    """Text, which may be kept as an attachment of the sample.

    Raises:
        InputError: the attachment is not there.
    """
    if not isinstance(value, str) or not value.startswith(_ATTACHMENT):
        return value
    found = attached.get(value.removeprefix(_ATTACHMENT))
    if not isinstance(found, str):
        raise InputError(f"{value[:60]} is not among the sample's attachments", "attachments")
    return found


def _scores(scores: Any) -> dict[str, float | str]:
    """Scorer → reward, or "undecided" where it could not be computed."""
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise InputError(f"must be an object, not {shown(scores)}", "scores")
    found: dict[str, float | str] = {}
    for name, score in scores.items():
        value = score.get("value") if isinstance(score, Mapping) else score
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": _number(inner, f"scores.{name}.{key}") for key, inner in value.items()}
        else:
            found[name] = _number(value, f"scores.{name}")
    return found


def _number(value: Any, name: str) -> float | str:
    if isinstance(value, str) and value.upper() in _GRADES:
        return _GRADES[value.upper()]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Verdict.UNDECIDED.value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"must be C, I, P, N or a number, not {shown(value)}", name) from error


def _end(sample: Mapping[str, Any]) -> dict[str, Any]:
    """How the sample ended: by an error, a limit, a person, or as the model's last output says."""
    if sample.get("error") is not None:
        return {"finish_reason": "error"}
    limit = sample.get("limit")
    if isinstance(limit, Mapping):
        return {"finish_reason": "cancelled"} if limit.get("type") == "operator" else {"truncated": True}
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, Mapping) else None
    last = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    return {"finish_reason": last["stop_reason"]} if last.get("stop_reason") else {}
