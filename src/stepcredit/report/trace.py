"""One search as a page: the tree of steps with V on every edge, what was pruned and what was chosen."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from scipy.optimize import isotonic_regression

from stepcredit.errors import InputError
from stepcredit.report.html import template, write_page
from stepcredit.report.page import signed
from stepcredit.report.scores import SEARCH_LABELS
from stepcredit.report.tables import decimal
from stepcredit.report.values import HIGH_RGB, LOW_RGB, SMALLEST_DROP, VERDICTS, value_colour
from stepcredit.results.fields import Row, list_of, optional_count, optional_number, printable, row_of, text_of
from stepcredit.version import __version__

STATES = ("root", "kept", "pruned", "finished", "truncated")
VERDICT_MARKS = {"right": "✓ right", "wrong": "✗ wrong", "undecided": "? undecided"}
STATE_MARKS = {"pruned": "✂ pruned", "truncated": "… truncated"}
MIDDLE_RGB = (139, 146, 155)  # grey: an edge with V = 0.5, to be seen on light and on dark pages
LARGE, HUGE = 100, 10_000  # from here on no decimals; from here on an exponent
MOST_CELLS = 40  # of a step's text in its box, in widths of a letter

# the drawing, in CSS pixels
BOX_WIDTH = 286
ROOT_WIDTH = 136
BOX_HEIGHT = 42
BEND = 64  # between two columns, edges bend first …
WIDEST_BEND = 280
VALUE_WIDTH = 54  # … and then V stands on them
SIBLING_GAP = 7
FAMILY_GAP = 16
MARGIN = 12
HEADING_HEIGHT = 28

_ILLEGIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """One state of the search: the step that led to it, V in it, and what became of it.

    `change` is V against V of the parent. `merged` counts the further identical continuations that this one stands
    for. Only a finished node has a verdict. None: not known.
    """

    id: int
    parent: int | None
    round: int
    text: str
    value: float | None
    change: float | None
    state: str
    tokens: int
    merged: int
    verdict: str | None
    extracted: str | None


@dataclass(frozen=True)
class Trace:
    """One search for one problem, checked. The prompt is messages of (role, text); a plain prompt has no role."""

    task: str
    prompt_id: str
    prompt: tuple[tuple[str, str], ...]
    answer: str | None
    search: str
    width: int | None
    continuations: int | None
    tokens_generated: int
    tokens_scored: int
    nodes: Mapping[int, Node]
    chosen: Node | None
    error: str | None

    @property
    def search_label(self) -> str:
        """The search in words, with its width."""
        label = SEARCH_LABELS.get(self.search, self.search)
        return label if self.width is None else f"{label} of width {self.width:,}"

    @property
    def rounds(self) -> int:
        """How many rounds made a node."""
        return len({node.round for node in self.nodes.values() if node.parent is not None})

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are in each state, the root left out."""
        found = Counter(node.state for node in self.nodes.values())
        return {state: found[state] for state in STATES[1:]}

    def path(self, node: Node) -> list[Node]:
        """The nodes from the root to a node, both included."""
        found = [node]
        while found[-1].parent is not None:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]


@dataclass(frozen=True)
class Box:
    """Where one node is drawn: the left upper corner of its box, and the line that comes from its parent."""

    node: Node
    parent: Node | None
    x: int
    y: int
    edge: str | None
    on_path: bool

    @property
    def width(self) -> int:
        """How wide the box is."""
        return ROOT_WIDTH if self.node.state == "root" else BOX_WIDTH

    @property
    def label(self) -> str:
        """The beginning of the step's text, or what stands for it."""
        if self.node.state == "root":
            return "the problem alone"
        return clipped(self.node.text) or "(empty)"

    @property
    def standing(self) -> str:
        """What became of the node, in a word with a mark."""
        node = self.node
        if node.state == "root":
            return f"V {number(node.value)}"
        if node.state == "finished" and node.verdict is not None:
            return f"finished {VERDICT_MARKS[node.verdict]}"
        return STATE_MARKS.get(node.state, node.state)

    @property
    def tooltip(self) -> str:
        """Everything known about the node."""
        node = self.node
        value = f"V {number(node.value)}"
        if node.change is not None:
            value += f", {change(node.change)} against the state before"
        if node.value is not None and not 0 <= node.value <= 1:
            value += " (outside 0 to 1)"
        if node.state == "root":
            return f"the problem alone\n{value}"
        facts = [f"round {node.round:,}", node.state, _counted(node.tokens, "token")]
        if node.merged:
            facts.append(_counted(node.merged, "further identical continuation") + " merged")
        if node.verdict is not None:
            facts.append(VERDICT_MARKS[node.verdict])
        if node.extracted is not None:
            facts.append(f"answer {node.extracted}")
        after = self.parent.text if self.parent else ""
        return (
            f"{node.text.rstrip() or '(empty)'}\n{value}\n{' · '.join(facts)}\nafter {clipped(after) or 'the problem'}"
        )


@dataclass(frozen=True)
class Drawing:
    """The whole tree laid out: boxes in the order of the nodes, a heading above each column, and the size."""

    boxes: tuple[Box, ...]
    headings: tuple[tuple[int, str], ...]
    width: int
    height: int


def write_trace(path: Path, trace: Mapping[str, object]) -> Path:
    """Write the page about one search, whole or not at all, and return where it is.

    Raises:
        InputError: the trace is malformed, or `path` is a folder.
    """
    return write_page(path, lambda: trace_page(trace))


def trace_page(trace: Mapping[str, object]) -> str:
    """The page about one search, the same text for the same trace.

    Args:
        trace: what the search did, as `check_trace` takes it.

    Raises:
        InputError: the trace is malformed.
    """
    checked = check_trace(trace)
    finished = [node for node in checked.nodes.values() if node.state == "finished"]
    filters: dict[str, Callable[..., Any]] = {
        "number": number,
        "change": change,
        "count": "{:,}".format,
        "value_colour": value_colour,
        "edge_colour": edge_colour,
        "one_line": printable,
        "clipped": clipped,
    }
    return template("trace.html.j2", filters).render(
        trace=checked,
        drawing=lay_out(checked),
        described=_description(checked),
        steps=checked.path(checked.chosen) if checked.chosen else [],
        drop=_largest_drop(checked.path(checked.chosen)) if checked.chosen else None,
        finished=[(node, checked.path(node)) for node in _best_first(finished)],
        verdicts=VERDICT_MARKS,
        height=BOX_HEIGHT,
        heading_height=HEADING_HEIGHT,
        version=__version__,
    )


def check_trace(payload: object) -> Trace:
    """The trace of one search, its fields checked.

    The keys are those of `Trace` and, in its list `nodes`, of `Node` without `change`; `prompt` is a text or a list
    of messages with `role` and `content`, `chosen` the id of a finished node or null. The first node is the root,
    and every other one names a parent that stands before it and belongs to an earlier round.

    Raises:
        InputError: a field is missing or wrong; the message names it.
    """
    row = row_of(payload, "trace")
    nodes: dict[int, Node] = {}
    for index, item in enumerate(list_of(row, "nodes", "trace")):
        where = f"trace, nodes[{index}]"
        node = _node(row_of(item, where), nodes, where)
        nodes[node.id] = node
    chosen = optional_count(row, "chosen", "trace")
    if chosen is not None and (chosen not in nodes or nodes[chosen].state != "finished"):
        raise InputError(f"field 'chosen' must be the id of a finished node or null, found {chosen}", "trace")
    return Trace(
        task=printable(text_of(row, "task", "trace")),
        prompt_id=printable(text_of(row, "prompt_id", "trace")),
        prompt=_messages(row),
        answer=_optional_text(row, "answer", "trace"),
        search=printable(text_of(row, "search", "trace")),
        width=optional_count(row, "width", "trace"),
        continuations=optional_count(row, "continuations", "trace"),
        tokens_generated=_whole(row, "tokens_generated", "trace"),
        tokens_scored=_whole(row, "tokens_scored", "trace"),
        nodes=nodes,
        chosen=None if chosen is None else nodes[chosen],
        error=_optional_text(row, "error", "trace"),
    )


def lay_out(trace: Trace) -> Drawing:
    """Places for all nodes: a column for each round, the root at the left upper corner, no two boxes in one place.

    The children of a node stand together: the one on the way to the chosen response first, then the highest V.
    Families stand in the order of their parents, each as near to the height of its parent as the others leave room
    (least squares), so that no two edges cross. An edge over several columns has a lane of its own in those between.
    """
    rounds = sorted({node.round for node in trace.nodes.values()})
    column_of = {made_in: column for column, made_in in enumerate(rounds)}
    columns = {node.id: column_of[node.round] for node in trace.nodes.values()}
    on_path = {node.id for node in trace.path(trace.chosen)} if trace.chosen else set()
    middles = _middles(trace, columns, on_path)
    bends = _bends(trace, columns, middles)
    lefts = [MARGIN]
    for column, bend in enumerate(bends[1:]):
        lefts.append(lefts[-1] + (BOX_WIDTH if column else ROOT_WIDTH) + bend + VALUE_WIDTH)
    boxes = []
    for node in trace.nodes.values():
        column = columns[node.id]
        x, y = lefts[column], middles[column][node.id] - BOX_HEIGHT // 2
        start = column if node.parent is None else columns[node.parent]
        parent = None if node.parent is None else trace.nodes[node.parent]
        stops = [(lefts[c], bends[c], _middle(middles, c, node)) for c in range(start, column + 1)]
        boxes.append(Box(node, parent, x, y, _edge(stops) if parent else None, node.id in on_path))
    headings = tuple((lefts[c], f"round {rounds[c]:,}" if c else "the problem") for c in range(len(rounds)))
    lowest = max((middle for column in middles for middle in column.values()), default=0)
    return Drawing(tuple(boxes), headings, lefts[-1] + BOX_WIDTH + MARGIN, lowest + BOX_HEIGHT // 2 + MARGIN)


def number(value: float | None) -> str:
    """V with two decimals and a true minus sign; a large one in fewer letters, so that it fits on its edge."""
    return decimal(value) if value is None or abs(value) < LARGE else _short(f"{value:{_form(value)}}")


def change(value: float | None) -> str:
    """A change of V with its sign; a large one in fewer letters."""
    return signed(value) if value is None or abs(value) < LARGE else _short(f"{value:+{_form(value)}}")


def _form(value: float) -> str:
    return ".0f" if abs(value) < HUGE else ".0e"


def _short(text: str) -> str:
    return text.replace("e+0", "e").replace("e+", "e").replace("-", "−")


def edge_colour(value: float | None) -> str:
    """A CSS colour from orange (V = 0) over grey (V = 0.5, or no V) to blue (V = 1)."""
    distance = 0.0 if value is None else 2 * min(max(value, 0.0), 1.0) - 1
    end = LOW_RGB if distance < 0 else HIGH_RGB
    mixed = (round(grey + abs(distance) * (full - grey)) for grey, full in zip(MIDDLE_RGB, end, strict=True))
    return "rgb({}, {}, {})".format(*mixed)


def clipped(text: str, most: int = MOST_CELLS) -> str:
    """The beginning of a text on one line, at most so many letters wide; an ellipsis stands for the rest.

    A wide letter counts as two, and one that is drawn over another as none, of which there may be as many again.
    """
    line = " ".join(text[: 8 * most].split())
    cells, kept = 0, []
    for letter in line[: 2 * most]:
        cells += _cells(letter)
        if cells > most:
            break
        kept.append(letter)
    if len(kept) == len(" ".join(text.split())):
        return line
    while kept and sum(map(_cells, kept)) > most - 1:
        kept.pop()
    return "".join(kept).rstrip() + "…"


def _cells(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _node(row: Row, before: Mapping[int, Node], where: str) -> Node:
    ident = _whole(row, "id", where)
    if ident in before:
        raise InputError(f"field 'id' must be unique, found {ident} again", where)
    parent = _parent(row, before, where)
    state = _one_of(row, "state", STATES, where)
    if (state == "root") != (parent is None):
        raise InputError(f"field 'state' must be root for the first node and for no other, found {state!r}", where)
    made_in = _whole(row, "round", where)
    if parent is not None and made_in <= parent.round:
        raise InputError(f"field 'round' must be above {parent.round}, the parent's, found {made_in}", where)
    verdict = None if row.get("verdict") is None else _one_of(row, "verdict", VERDICTS, where)
    if verdict is not None and state != "finished":
        raise InputError(f"field 'verdict' must be null in a node that is {state}, found {verdict!r}", where)
    value = optional_number(row, "value", where)
    before_it = None if parent is None else parent.value
    return Node(
        id=ident,
        parent=None if parent is None else parent.id,
        round=made_in,
        text=_legible(text_of(row, "text", where)),
        value=value,
        change=None if value is None or before_it is None else value - before_it,
        state=state,
        tokens=_whole(row, "tokens", where),
        merged=_whole(row, "merged", where),
        verdict=verdict,
        extracted=_optional_text(row, "extracted", where),
    )


def _parent(row: Row, before: Mapping[int, Node], where: str) -> Node | None:
    ident = optional_count(row, "parent", where)
    if ident is None:
        if before:
            raise InputError("field 'parent' must name a node; only the first node, the root, has none", where)
        return None
    if ident not in before:
        raise InputError(f"field 'parent' must name a node that stands before this one, found {ident}", where)
    return before[ident]


def _messages(row: Row) -> tuple[tuple[str, str], ...]:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return (("", _legible(prompt)),)
    if not isinstance(prompt, list):
        raise InputError(f"field 'prompt' must be a text or a list of messages, found {prompt!r:.60}", "trace")
    messages = []
    for index, item in enumerate(prompt):
        where = f"trace, prompt[{index}]"
        message = row_of(item, where)
        messages.append((printable(text_of(message, "role", where)), _legible(text_of(message, "content", where))))
    return tuple(messages)


def _whole(row: Row, key: str, where: str) -> int:
    value = optional_count(row, key, where)
    if value is None:
        raise InputError(f"field {key!r} must be a whole number of at least 0, found {row.get(key)!r}", where)
    return value


def _optional_text(row: Row, key: str, where: str) -> str | None:
    return None if row.get(key) is None else _legible(text_of(row, key, where))


def _one_of(row: Row, key: str, names: Sequence[str], where: str) -> str:
    name = text_of(row, key, where)
    if name not in names:
        raise InputError(f"field {key!r} must be one of {', '.join(names)}, found {name!r:.60}", where)
    return name


def _legible(text: str) -> str:
    """The text with a mark for what no page can hold (control characters, lone surrogates) and for what would show the
    rest in another order than it is written."""
    return _ILLEGIBLE.sub("\ufffd", text.replace("\r\n", "\n"))


def _best_first(nodes: Iterable[Node]) -> list[Node]:
    """The highest V first, those without V last; with one and the same V, kept before pruned."""
    return sorted(nodes, key=lambda node: (node.value is None, -(node.value or 0.0), node.state == "pruned"))


def _middles(trace: Trace, columns: Mapping[int, int], first: Set[int]) -> list[dict[int, int]]:
    """The height of the middle of all that stands in each column: the nodes, and the lanes of those further right."""
    children: dict[int, list[Node]] = {ident: [] for ident in trace.nodes}
    for node in trace.nodes.values():
        if node.parent is not None:
            children[node.parent].append(node)
    families = {
        parent: sorted((child.id for child in _best_first(family)), key=lambda ident: ident not in first)
        for parent, family in children.items()
    }
    found: list[dict[int, int]] = []
    for column in range(max(columns.values(), default=-1) + 1):
        if column == 0:
            found.append({ident: MARGIN + BOX_HEIGHT // 2 for ident in columns if columns[ident] == 0})
            continue
        before = found[-1]
        groups = [(before[i], families[i] if columns[i] == column - 1 else [i]) for i in before]
        found.append(_stack([(middle, group) for middle, group in groups if group]))
    return found


def _stack(groups: Sequence[tuple[int, Sequence[int]]]) -> dict[int, int]:
    """The middles of one column: groups in their order, each around the middle that it wants as well as that goes.

    With y the tops and h the heights of the groups, the sum of the squares of y_i - wanted_i is smallest under
    y_(i+1) >= y_i + h_i and y_0 >= the margin: isotonic regression of what is left when the heights above are taken
    away.
    """
    heights = [len(group) * (BOX_HEIGHT + SIBLING_GAP) - SIBLING_GAP for _, group in groups]
    above = list(accumulate((height + FAMILY_GAP for height in heights), initial=0))[:-1]
    wanted = [middle - height / 2 - over for (middle, _), height, over in zip(groups, heights, above, strict=True)]
    middles: dict[int, int] = {}
    for start, over, (_, group) in zip(isotonic_regression(wanted).x, above, groups, strict=True):
        top = max(MARGIN, round(start)) + over
        for place, ident in enumerate(group):
            middles[ident] = top + place * (BOX_HEIGHT + SIBLING_GAP) + BOX_HEIGHT // 2
    return middles


def _middle(middles: Sequence[Mapping[int, int]], column: int, node: Node) -> int:
    """The height of a node's edge in a column: of the parent, of a lane, or of the node itself."""
    return (
        middles[column][node.id] if node.id in middles[column] or node.parent is None else middles[column][node.parent]
    )


def _bends(trace: Trace, columns: Mapping[int, int], middles: Sequence[Mapping[int, int]]) -> list[int]:
    """How wide the edges into each column bend: wider where they go far up or down, so that they can be told apart."""
    bends = [BEND] * max(len(middles), 1)
    for node in trace.nodes.values():
        start = columns[node.id] if node.parent is None else columns[node.parent]
        heights = [_middle(middles, column, node) for column in range(start, columns[node.id] + 1)]
        for column, (above, below) in enumerate(pairwise(heights), start + 1):
            bends[column] = max(bends[column], min(abs(below - above) // 8, WIDEST_BEND))
    return bends


def _edge(stops: Sequence[tuple[int, int, int]]) -> str:
    """The line from the right side of a parent's box to the left side of its child's, as an SVG path.

    `stops` are the columns from the parent's to the child's: the left side, the bend before it, the height of the line.
    """
    (_, _, height), *others = stops
    line = ""
    for x, bend, end in others:
        start = x - VALUE_WIDTH - bend
        half = start + bend // 2
        line += f"{'H' if line else 'M'}{start}{'' if line else f' {height}'}"
        line += f"C{half} {height} {half} {end} {start + bend} {end}H{x}"
        height = end
    return line


def _largest_drop(steps: Sequence[Node]) -> int | None:
    """The id of the step at which V falls most; None when no fall can be seen in two decimals."""
    falls = [(node.change, node.id) for node in steps if node.change is not None and node.change <= -SMALLEST_DROP]
    return min(falls)[1] if falls else None


def _description(trace: Trace) -> str:
    """The drawing in words."""
    steps = len(trace.nodes) - 1
    if steps < 1:
        return "Search tree without a step: the problem alone."
    counts = ", ".join(f"{count:,} {state}" for state, count in trace.counts.items())
    told = f"Search tree of {_counted(steps, 'step')} in {_counted(trace.rounds, 'round')}: {counts}."
    if trace.chosen is None:
        return f"{told} Nothing was chosen."
    return f"{told} The chosen response has {_counted(len(trace.path(trace.chosen)) - 1, 'step')}."


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
