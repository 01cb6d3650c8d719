"""Page of one search tree: the steps as a nested list, with V and the state of each node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stepcredit.report.formatting import count, decimal, signed
from stepcredit.report.html import template, write_page
from stepcredit.report.scores import search_label
from stepcredit.report.step_values import value_colour


def write_trace(path: Path, trace: Mapping[str, Any]) -> Path:
    """Writes the page of one search atomically and returns its path.

    Args:
        path: file of the page.
        trace: data from `stepcredit.evaluation.response_search.ResponseSearch.trace`.

    Raises:
        InputError: `path` is a folder.
    """
    return write_page(path, lambda: trace_page(trace))


def trace_page(trace: Mapping[str, Any]) -> str:
    """Renders the page of one search; deterministic."""
    nodes: dict[int, dict[str, Any]] = {}
    for node in trace["nodes"]:
        before = nodes[node["parent"]]["value"] if node["parent"] is not None else None
        change = None if None in (before, node["value"]) else node["value"] - before
        nodes[node["id"]] = {**node, "change": change, "children": []}
        if node["parent"] is not None:
            nodes[node["parent"]]["children"].append(nodes[node["id"]])
    path, at = set(), trace["chosen"]
    while at is not None:
        path.add(at)
        at = nodes[at]["parent"]
    prompt = [{"role": "", "content": trace["prompt"]}] if isinstance(trace["prompt"], str) else trace["prompt"]
    filters: dict[str, Callable[..., Any]] = {
        "decimal": decimal, "signed": signed, "count": count, "value_colour": value_colour, "search": search_label,
    }  # fmt: skip
    return template("trace.html.j2", filters).render(
        trace=trace,
        prompt=prompt,
        path=path,
        chosen=None if trace["chosen"] is None else nodes[trace["chosen"]],
        tree=list(_in_order(next(iter(nodes.values())), path)) if nodes else [],
    )


def _in_order(root: dict[str, Any], path: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("open", node) and ("close", node) in depth-first order: the path to the chosen response first, then in
    descending order of V."""
    waiting = [("close", root), ("open", root)]
    while waiting:
        what, node = waiting.pop()
        yield what, node
        if what == "open":
            for child in sorted(
                node["children"], key=lambda c: (c["id"] in path, -1e300 if c["value"] is None else c["value"])
            ):
                waiting += [("close", child), ("open", child)]
