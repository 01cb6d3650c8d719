"""The tables and plots of docs/performance.md, made anew from results.json: python benchmarks/page.py

The page's own words stay; between `<!-- NAME -->` and `<!-- end -->` stands what is generated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from stepcredit.files import read_json
from stepcredit.report.cost import standing
from stepcredit.report.figures import drawn_svg, figure_style
from stepcredit.results.row_files import read_object, read_rows
from stepcredit.results.schema import AccuracyRow

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "performance.md"
MARKER = re.compile(r"(<!-- (?P<name>[\w ]+) -->\n)(?P<old>.*?)(<!-- end -->)", re.DOTALL)
MISSING, NOT_MEASURED = "–", "Not measured yet."
NO_GPU = "No GPU was at hand: these rows are missing. `make benchmark` adds them where there is one."
FLAT = (151_936, 256)
"""Vocabulary and hidden size of the plot of the head."""
COLOURS = {"baseline": "#858c96", "ours": "#2476c4", "other": "#239b76"}

Row = dict[str, Any]
Rows = list[Row]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    cells = [header, ["---", *("---:" for _ in header[1:])], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, and no exponent."""
    if value is None:
        return MISSING
    whole = f"{value:.{digits}g}"
    return f"{float(whole):,.0f}" if "e" in whole or float(whole) >= 10**digits else whole


def times(value: float | None) -> str:
    """A ratio of baseline and ours."""
    return MISSING if value is None else f"{value:.2f}"


def gigabytes(value: float | None) -> str:
    """Bytes in GB."""
    return MISSING if value is None else number(value / 1e9)


def of(rows: Rows, part: str, device: str = "cpu", **fields: Any) -> Rows:
    """The rows of a part that were measured on a device and have these fields."""
    wanted = {"part": part, "device": device, **fields}
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


# ---- step --------------------------------------------------------------------------------------------------


def steps(rows: Rows, device: str) -> dict[int, dict[str, dict[str, Row]]]:
    """Rows of a step by episodes, scheme and baseline."""
    found: dict[int, dict[str, dict[str, Row]]] = {}
    for row in of(rows, "step", device):
        found.setdefault(row["episodes"], {}).setdefault(row["scheme"], {})[row["baseline"]] = row
    return found


def step_table(rows: Rows, device: str = "cpu") -> str:
    """Seconds and memory of a step, a table for each number of episodes."""
    parts = []
    gpu = ["tokens/s", "MFU"] if device == "cuda" else []
    header = ["scheme", "seconds", "published ÷ it", "TRL's blocks ÷ it", "peak GB", "published ÷ it",
              "beyond state, GB", "published ÷ it", "once, s", "break-even, epochs", *gpu]  # fmt: skip
    for episodes, schemes in steps(rows, device).items():
        some = next(iter(next(iter(schemes.values())).values()))
        lines = []
        for by_baseline in schemes.values():
            row = next(iter(by_baseline.values()))
            against, trl = by_baseline.get("published", {}), by_baseline.get("trl", {})
            note = "" if row["same_algorithm"] else " (another algorithm)"
            skipped = f": {row['skipped']}" if row["seconds"] is None and "skipped" in row else ""
            lines.append(
                [
                    f"{row['label']}{note}{skipped}",
                    number(row["seconds"]),
                    times(against.get("time_ratio")),
                    times(trl.get("time_ratio")),
                    gigabytes(row["memory"]),
                    times(against.get("memory_ratio")),
                    gigabytes(row["above_state"]),
                    times(against.get("memory_above_state_ratio")),
                    number(row["once_seconds"]),
                    number(against.get("break_even_epochs"), 2),
                    *([number(row["tokens_per_second"]), times(row["mfu"])] if gpu else []),
                ]
            )
        title = f"{some['workload']}, {episodes} episodes of {some['tokens']:,} tokens, median of {_repeats(schemes)}:"
        parts.append(f"{title}\n\n{table(header, lines)}")
    return "\n\n".join(parts) or (NO_GPU if device == "cuda" else NOT_MEASURED)


def _repeats(schemes: dict[str, dict[str, Row]]) -> str:
    repeats = sorted({row["repeats"] for by_baseline in schemes.values() for row in by_baseline.values()})
    return " to ".join(map(str, {repeats[0]: 0, repeats[-1]: 0}))


def step_svg(rows: Rows) -> str | None:
    """A bar for the seconds of each scheme; None where the published scheme was not measured."""
    schemes = steps(rows, "cpu").get(16, {})
    bars = [found["published"] for found in schemes.values() if found.get("published", {}).get("time_ratio")]
    if not bars:
        return None
    published = bars[0]["baseline_seconds"]
    drawn = [("published scheme", published, 1.0, "baseline")]
    for row in bars:
        kind = "baseline" if row["scheme"] == "trl" else "ours" if row["same_algorithm"] else "other"
        drawn.append((row["label"], row["seconds"], row["time_ratio"], kind))
    with figure_style("step"):
        figure = Figure(figsize=(8.4, 0.7 + 0.32 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        for place, (_, seconds, ratio, kind) in enumerate(drawn):
            axes.barh(place, seconds, height=0.72, color=COLOURS[kind])
            axes.text(seconds + 0.01 * published, place, f"{ratio:.2f}×", va="center", fontsize=9)
        axes.set_yticks(range(len(drawn)), [label for label, *_ in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, 1.1 * max(seconds for _, seconds, *_ in drawn))
        axes.set_xlabel("seconds of a step")
        axes.tick_params(axis="y", length=0)
        _plain(axes)
        return drawn_svg(figure, "step")


# ---- head --------------------------------------------------------------------------------------------------


def head_table(rows: Rows, kl: bool, device: str = "cpu") -> str:
    """A line for each head on each shape; a baseline's line has the ratios of ours."""
    found = [row for row in of(rows, "head", device, kl=kl) if row["baseline"] is not None]
    ours = list(dict.fromkeys(row["scheme"] for row in found))
    header = ["head", "V", "H", "actions", "seconds", "workspace, GB",
              *(f"its {what} ÷ {name}'s" for name in ours for what in ("time", "memory"))]  # fmt: skip
    by_shape: dict[tuple[int, ...], Rows] = {}
    for row in found:
        by_shape.setdefault((row["vocab"], row["hidden"], row["tokens"]), []).append(row)
    lines = []
    for shape, of_shape in by_shape.items():
        sizes = [f"{size:,}" for size in shape]
        for baseline in dict.fromkeys(row["baseline"] for row in of_shape):
            against = {row["scheme"]: row for row in of_shape if row["baseline"] == baseline}
            row = against[ours[0]]
            name = baseline if row["baseline_seconds"] is not None else f"{baseline}: {row.get('skipped', MISSING)}"
            ratios = [times(against[o][key]) for o in ours for key in ("time_ratio", "memory_ratio")]
            lines.append([name, *sizes, number(row["baseline_seconds"]), gigabytes(row["baseline_memory"]), *ratios])
        for name in ours:
            row = next(row for row in of_shape if row["scheme"] == name)
            blank = [MISSING] * 2 * len(ours)
            lines.append([f"{name} (ours)", *sizes, number(row["seconds"]), gigabytes(row["memory"]), *blank])
    return table(header, lines) if lines else NO_GPU if device == "cuda" else NOT_MEASURED


def flat_rows(rows: Rows) -> list[tuple[int, float, float]]:
    """(actions, seconds, workspace in bytes) of the one pass with the KL on the shape of the plot, by actions."""
    vocab, hidden = FLAT
    found = of(rows, "head", kl=True, vocab=vocab, hidden=hidden, scheme="one pass")
    sizes = {row["tokens"]: (row["seconds"], row["memory"]) for row in found if row["seconds"] is not None}
    return [(tokens, *sizes[tokens]) for tokens in sorted(sizes)]


def flat_svg(rows: Rows) -> str | None:
    """Workspace and time of an action over the number of actions; None where there are not two."""
    points, (vocab, hidden) = flat_rows(rows), FLAT
    if len(points) < 2:
        return None
    naive = [
        (row["tokens"], row["baseline_seconds"], row["baseline_memory"])
        for row in of(rows, "head", kl=True, vocab=vocab, hidden=hidden, scheme="one pass", baseline="naive")
        if row["baseline_seconds"] is not None
    ]
    with figure_style("head"):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        panels: list[tuple[str, Callable[[tuple[int, float, float]], float]]] = [
            ("workspace, GB", lambda point: point[2] / 1e9),
            ("milliseconds an action", lambda point: 1e3 * point[1] / point[0]),
        ]
        for place, (title, value) in enumerate(panels, 1):
            axes = figure.add_subplot(1, 2, place)
            for label, kind, line in (("one pass", "ours", points), ("naive", "baseline", naive)):
                axes.plot([p[0] for p in line], [value(p) for p in line], "o-", color=COLOURS[kind], label=label)
            axes.set_xscale("log", base=2)
            axes.set_xticks([tokens for tokens, *_ in points])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(bottom=0)
            axes.set_xlabel("actions")
            axes.set_title(title, fontsize=10)
            axes.grid(axis="y")
            _plain(axes)
        figure.axes[0].legend(frameon=False)
        return drawn_svg(figure, "head")


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)


# ---- collection, search, machines --------------------------------------------------------------------------


def collect_table(rows: Rows, device: str = "cpu") -> str:
    """Tokens a second of each scheme."""
    found = of(rows, "collect", device)
    lines = [
        [
            row["scheme"],
            number(row["tokens_per_second"]),
            number(row["baseline_tokens_per_second"]),
            times(row["time_ratio"]),
            gigabytes(row["memory"]),
            times(row["memory_ratio"]),
            f"{100 * row['equal_draws']:.0f}%",
        ]
        for row in found
    ]
    header = ["scheme", "tokens/s", "before", "it ÷ before", "beyond weights, GB", "before ÷ it", "equal responses"]
    if not lines:
        return NO_GPU if device == "cuda" else NOT_MEASURED
    title = f"{found[0]['workload']}, {found[0]['responses']} responses, median of {found[0]['repeats']}:"
    return f"{title}\n\n{table(header, lines)}"


def search_table(rows: Rows) -> str:
    """Time of a beam with caches, against the re-encoding one where that was measured."""
    found = of(rows, "search")
    lines = [
        [
            f"{row['problems']} problems, {row['beams']} beams",
            f"{row['tokens']:,}",
            number(row["seconds"]),
            number(1e3 / row["tokens_per_second"]),
            number(row["baseline_seconds"]),
            times(row["time_ratio"]),
        ]
        for row in found
    ]
    header = ["beam", "tokens", "seconds", "ms a token", "re-encoding, seconds", "re-encoding ÷ it"]
    return f"{found[0]['workload']}:\n\n{table(header, lines)}" if lines else NOT_MEASURED


def quality_table(task: str) -> str:
    """Accuracy of the schemes on an embedded task, mean and standard error over seeds, from `runs/schemes`."""
    folder = HERE.parent / "runs" / "schemes" / task
    if not (folder / "results.json").exists():
        return f"Not run yet: `runs/schemes/run.sh` runs `{task}` too."
    rows = read_rows(folder / "results.json", AccuracyRow)
    labels = read_object(folder / "run.json")["methods"]
    lines = []
    for method, look in labels.items():
        cells = []
        for search in ("greedy", "sample"):
            found = [100 * row.accuracy for row in rows if (row.method, row.search) == (method, search)]
            cells.append(f"{fmean(found):.1f} ± {stdev(found) / len(found) ** 0.5:.1f}")
        rates = {row.learning_rate for row in rows if row.method == method and row.learning_rate is not None}
        rate = f"{rates.pop():g}" if rates else MISSING
        lines.append([look["label"], *cells, rate])
    return table(["scheme", "greedy, %", "sampled, %", "learning rate"], lines)


def machine_table(rows: Rows) -> str:
    """Where each part was measured."""
    lines: dict[tuple[str, ...], None] = {}
    for row in rows:
        packages = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        lines[row["part"], row["device"], row["machine"], str(row["threads"]), packages] = None
    return table(["part", "device", "machine", "threads", "versions"], lines) if lines else NOT_MEASURED


TABLES: dict[str, Callable[[Rows], str]] = {
    "step": step_table,
    "quality on arithmetic": lambda rows: quality_table("arithmetic"),
    "quality on chain": lambda rows: quality_table("chain"),
    "head": lambda rows: head_table(rows, kl=True),
    "head without KL": lambda rows: head_table(rows, kl=False),
    "collect": collect_table,
    "search": search_table,
    "step on a GPU": lambda rows: step_table(rows, "cuda"),
    "head on a GPU": lambda rows: head_table(rows, kl=True, device="cuda"),
    "collect on a GPU": lambda rows: collect_table(rows, "cuda"),
    "machines": machine_table,
}
PICTURES: dict[str, Callable[[Rows], str | None]] = {"performance-step": step_svg, "performance-head": flat_svg}


def page(text: str, rows: Rows) -> str:
    """The page with its tables made anew."""
    return MARKER.sub(lambda found: f"{found[1]}\n{TABLES[found['name']](rows)}\n\n{found[4]}", text)


def main() -> None:
    rows: Any = read_json(RESULTS)
    for name, picture in PICTURES.items():
        drawn = picture(rows)
        if drawn is not None:
            PAGE.with_name(f"{name}.svg").write_text(standing(drawn), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
