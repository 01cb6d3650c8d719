"""Whether two quickstart runs measured the same: same_columns.py BEFORE AFTER

Compares `results.json` and `value.json` of two output folders: as many rows, in one order, and in each row the
columns of BEFORE in their order with their values, written the same byte for byte. AFTER may have further columns.
Exit code 1, with the first difference, where they are not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

FILES = ("results.json", "value.json")


def differences(before: Path, after: Path) -> Iterator[str]:
    """What differs between two result files, a line each."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    if len(old) != len(new):
        yield f"{len(old)} rows, then {len(new)}"
    for number, (was, now) in enumerate(zip(old, new, strict=False), 1):
        kept = {name: value for name, value in now.items() if name in was}
        if json.dumps(kept, ensure_ascii=False) != json.dumps(was, ensure_ascii=False):
            changed = [name for name in was if name not in now or json.dumps(was[name]) != json.dumps(now[name])]
            yield f"row {number}: {', '.join(changed) or 'the order of the columns'}"


def main() -> int:
    before, after = map(Path, sys.argv[1:])
    found = [f"{file}: {line}" for file in FILES for line in differences(before / file, after / file)]
    print("\n".join(found) or f"the same columns in {' and '.join(FILES)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
