"""The head alone: time, and workspace beyond its inputs and the gradient of its weight, every head on several shapes.

The workspace of each head is measured in a process of its own, at its first call; times in one process, all heads in
turn. `python -m benchmarks.head --schemes NAME …` is one of these processes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import torch

from benchmarks.head_schemes import EPISODE, HEADS, head_case, run
from benchmarks.measure import Failed, alternated, in_own_process, machine, median, memory, ratio, skipped


class Shape(NamedTuple):
    """Vocabulary, hidden size and actions; `alone`: only our one pass, where the naive head would not fit."""

    vocab: int
    hidden: int
    tokens: int
    alone: bool = False


SHAPES = {
    "cpu": (
        Shape(1_024, 256, 4_096),
        Shape(49_152, 576, 1_024),
        Shape(151_936, 256, 1_024),
        Shape(151_936, 256, 2_048, alone=True),
        Shape(151_936, 256, 4_096, alone=True),
        Shape(151_936, 256, 16_384, alone=True),
    ),
    "cuda": (Shape(151_936, 1_536, 8_192), Shape(151_936, 1_536, 32_768, alone=True)),
}
LONG_SHAPES = (
    *(Shape(1_024, hidden, tokens) for hidden in (256, 576, 896) for tokens in (1_024, 4_096, 16_384)),
    *(Shape(49_152, hidden, 1_024) for hidden in (256, 576, 896)),
    *(Shape(49_152, hidden, tokens, alone=True) for hidden in (256, 576, 896) for tokens in (4_096, 16_384)),
    *(Shape(151_936, hidden, 1_024) for hidden in (256, 576, 896)),
    *(Shape(151_936, hidden, tokens, alone=True) for hidden in (256, 576, 896) for tokens in (4_096, 16_384)),
)
DEFAULT = Shape(49_152, 576, 1_024)
"""SmolLM2's, measured without KL too; `--long` measures all so."""
DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}


def rows(device: str, repeats: int, long: bool = False) -> list[dict[str, Any]]:
    """Measures every head on every shape; returns a row for each of ours against each baseline."""
    shapes = LONG_SHAPES if long and device == "cpu" else SHAPES[device]
    found = []
    for shape in shapes:
        both = not shape.alone and (long or device == "cuda" or shape == DEFAULT)
        for kl in (True, False) if both else (True,):
            found += shape_rows(shape, kl, device, repeats)
            print(f"head: {shape} {'with KL' if kl else 'log-probability only'}", flush=True)
    return found


def shape_rows(shape: Shape, kl: bool, device: str, repeats: int) -> list[dict[str, Any]]:
    """Measures the heads on one shape."""
    names = ["one pass"] if shape.alone else [name for name, head in HEADS.items() if head.has_kl or not kl]
    repeats = 1 if shape.alone else repeats
    options = [f"--{name}={value}" for name, value in shape._asdict().items() if name != "alone"]
    options += [f"--device={device}", *(["--kl"] if kl else [])]
    workspace: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            workspace[name] = in_own_process("benchmarks.head", "--schemes", name, *options)["workspace"]
        except Failed as reason:
            failed[name] = str(reason)
    timed = in_own_process("benchmarks.head", "--schemes", *workspace, "--repeats", repeats, *options)["seconds"]
    seconds = {name: median(all_seconds) for name, all_seconds in timed.items()}
    baselines = [name for name in names if not HEADS[name].ours] or [None]
    return [
        {
            "part": "head",
            "baseline": baseline,
            "scheme": name,
            "kl": kl,
            "vocab": shape.vocab,
            "hidden": shape.hidden,
            "tokens": shape.tokens,
            "dtype": str(DTYPE[device]).removeprefix("torch."),
            "time_ratio": ratio(seconds.get(baseline), seconds.get(name)),
            "memory_ratio": ratio(workspace.get(baseline), workspace.get(name)),
            "seconds": seconds.get(name),
            "baseline_seconds": seconds.get(baseline),
            "memory": workspace.get(name),
            "baseline_memory": workspace.get(baseline),
            "repeats": repeats,
            **skipped(failed, baseline, name),
            **machine(device),
        }
        for baseline in baselines
        for name in names
        if HEADS[name].ours
    ]


def measured(names: list[str], shape: Shape, kl: bool, repeats: int, device: str) -> dict[str, Any]:
    """Measures heads in this process.

    Returns: with repeats, {"seconds": the seconds of every repeat by name}; with none, {"workspace": the highest memory
        of the first call of the only head beyond its inputs and the gradient of its weight, in bytes}.
    """
    case, small = (head_case(v, h, n, device, DTYPE[device]) for v, h, n in [shape[:3], (64, 32, EPISODE)])
    for name in names:
        run(name, small, kl)  # loads libraries, and starts threads
    if repeats:
        runs = {name: (lambda name=name: run(name, case, kl)) for name in names}
        return {"seconds": alternated(runs, repeats, device)}
    with memory(device) as held:
        run(names[0], case, kl)
    assert case.weight.grad is not None
    return {"workspace": held.above - case.weight.grad.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", choices=HEADS, required=True)
    parser.add_argument("--kl", action="store_true", help="with the exact KL; otherwise log-probabilities only")
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--tokens", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=0, help="0: measure memory")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    shape = Shape(args.vocab, args.hidden, args.tokens)
    try:
        found = measured(args.schemes, shape, args.kl, args.repeats, args.device)
    except Failed as reason:
        found = {"failed": str(reason)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
