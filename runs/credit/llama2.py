"""Does V of a pretrained model rank right above wrong responses within a question, better than a bag of words?

12,800 graded responses of Llama-2-chat to 800 GSM8K questions (16 instructions), split by question. Policy and V start
from a pretrained model and learn by OREO from outcomes on the training questions. On the others V is measured at 25,
50, 75 and 100% of the tokens beside length, the instruction's success rate and a bag of words of the same share, which
is fitted to the same training questions; again on pairs matched on length and instruction; and V minus each, paired.
The same V is measured on the solutions of four systems to the 1,319 GSM8K test questions, those trained on left out.

    python runs/credit/llama2.py --data DIR [--model DIR] [--size cpu|gpu] [--minutes 8] [--output_dir DIR]

A piece is one seed: V of every held-out response. The same command goes on where it stopped; `--summarise` makes the
results of what is there, without a model; it alone needs scikit-learn. `results.json`, `cases.json`, `settings.json`.
The policy is trained on responses to GSM8K *test* questions, so no GSM8K score of it is reported anywhere.

Cost with SmolLM2-135M, the last 6 layers:
    cpu   200 questions, a million tokens, counted at 30 GFLOP/s of two cores, not run whole: 1.6 hours for the frozen
          layers, 3.8 of training (0.4 GFLOP a token), 1.5 of scoring (0.27)
    gpu   all 575 questions, 2.9 million tokens: four minutes of an H200, beside other runs
"""

from __future__ import annotations

import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from learning import Pieces, aligned, free, learn, options_of, parsed, settings_of, values

from stepcredit import Episode
from stepcredit.files import write_json
from stepcredit.models.loading import load_tokenizer
from stepcredit.models.scoring import value_after_steps

sys.path.append(str(Path(__file__).parents[1] / "real_logs"))
import within_question as within

LLAMA2, SYSTEMS = "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz", "gsm8k_test_solutions_6b_175b.jsonl.gz"
WRITERS = {LLAMA2: "prompt_variant", SYSTEMS: "policy"}
"""Column that says who wrote a response."""
TEST_SHARE = 0.25
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"questions": 200, "test_questions": 100, "epochs": 1.0},
    "gpu": {"questions": 600, "test_questions": 200, "epochs": 1.0, "micro_batch": 32},
}


def main() -> None:
    """Makes a piece per seed, then the results."""
    parser = options_of(__doc__, SIZES, Path(__file__).parent / "llama2")
    parser.add_argument("--questions", type=int, help="train on at most so many questions")
    parser.add_argument("--test_questions", type=int, help="measure on at most so many, of each file")
    options = parsed(parser, SIZES)
    llama2, systems = (read(options.data / file) for file in (LLAMA2, SYSTEMS))
    train, test = split(llama2, options.questions, options.test_questions)
    trained = {e.prompt_id for e in train}
    parts = {LLAMA2: test, SYSTEMS: some([e for e in systems if e.prompt_id not in trained], options.test_questions)}
    has_words = find_spec("sklearn") is not None
    pieces, results, found = (
        Pieces(options, {**settings_of(options), "test_questions": options.test_questions}),
        [],
        None,
    )
    for seed in options.seeds:
        name = f"oreo-{options.questions}-questions-seed{seed}"
        rows = pieces.get(name, lambda s=seed: piece(train, parts, options, s))
        if rows is not None and has_words:
            found = found or rows
            results += results_of(rows, train, systems, parts, seed)
    if not has_words:
        raise SystemExit("The results need scikit-learn; run this again with --summarise where it is installed.")
    write_json(options.output_dir / "results.json", results)
    write_json(options.output_dir / "settings.json", {**pieces.settings(), "questions": counts(train, parts)})
    if found:
        write_json(options.output_dir / "cases.json", cases(found, test))
    show(results)


def read(file: Path) -> list[Episode]:
    """The responses of a file, with prompts in the words of the pretrained policy's fine-tuning."""
    with tempfile.TemporaryDirectory() as folder:
        return [in_words(e) for e in within.read(file, Path(folder) / "episodes")]


def in_words(episode: Episode) -> Episode:
    """A response that begins with a space, to `Question: …`, `Answer:`."""
    completion = f" {str(episode.completion).strip()}"
    return replace(episode, prompt=f"Question: {episode.prompt}\nAnswer:", completion=completion)


def some(episodes: Sequence[Episode], questions: int) -> list[Episode]:
    """The responses to so many questions, the first by a hash of their numbers."""
    kept = set(sorted({e.prompt_id for e in episodes}, key=within.hashed, reverse=True)[:questions])
    return [e for e in episodes if e.prompt_id in kept]


def split(episodes: Sequence[Episode], questions: int, test_questions: int) -> tuple[list[Episode], list[Episode]]:
    """(train, test) of at most so many questions each; the split itself is that of runs/real_logs."""
    train, test = within.split_by_question(episodes, TEST_SHARE)
    return some(train, questions), some(test, test_questions)


def piece(
    train: Sequence[Episode], parts: dict[str, list[Episode]], options: Namespace, seed: int
) -> list[dict[str, Any]]:
    """Learns, and returns V of every held-out response at each share of its tokens and after each step."""
    policy, value = learn("oreo", train, options, seed)
    del policy
    rows, tokenizer = [], load_tokenizer(str(options.model))
    for file, episodes in parts.items():
        trajectories = aligned(episodes, tokenizer)
        for e, t, v in zip(episodes, trajectories, values(value, trajectories, options), strict=True):
            at = [round(within.value_at(t, v, share), 5) for share in within.SHARES]
            steps = [round(float(x), 3) for x in value_after_steps(t, v)]
            rows.append({"file": file, "question": e.prompt_id, "sample": e.sample, "at": at, "steps": steps})
    del value
    free(options)
    return rows


def results_of(
    rows: Sequence[dict[str, Any]],
    train: Sequence[Episode],
    systems: Sequence[Episode],
    parts: dict[str, list[Episode]],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of the AUC of V and the baselines within questions, and of V minus each, for both files.

    The success rates of the four systems are those on the training questions; the bag of words is that of the Llama-2
    responses, for both.
    """
    trained = {e.prompt_id for e in train}
    rates = {
        LLAMA2: within.variant_rates(train, WRITERS[LLAMA2]),
        SYSTEMS: within.variant_rates([e for e in systems if e.prompt_id in trained], WRITERS[SYSTEMS]),
    }
    results = []
    for file, test in parts.items():
        by_response = {(r["question"], r["sample"]): r["at"] for r in rows if r["file"] == file}
        at = np.array([by_response[e.prompt_id, e.sample] for e in test])
        value = {share: at[:, k] for k, share in enumerate(within.SHARES)}
        column = WRITERS[file]
        scores = within.scores_of(train, test, column, value, rates[file])
        common = {"file": file, "seed": seed}
        found = within.measure(scores, test, column, rates[file], seed)
        found += within.differences(scores, within.VALUE, test, column, rates[file], seed)
        results += [{**common, **row} for row in found if row["pairs"]]  # no system wrote twice: no matched pairs
    return results


def counts(train: Sequence[Episode], parts: dict[str, list[Episode]]) -> dict[str, int]:
    """Number of questions trained on, and of each file measured."""
    sizes = {"train": train, **parts}
    return {name: len({e.prompt_id for e in episodes}) for name, episodes in sizes.items()}


def cases(rows: Sequence[dict[str, Any]], test: Sequence[Episode], count: int = 10) -> list[dict[str, Any]]:
    """The pairs of a wrong and a right response to one question that V ranks worst and best, half of each, with V of
    every step; each question once."""
    final = {(r["question"], r["sample"]): r for r in rows if r["file"] == LLAMA2}
    by_question: dict[str, dict[bool, list[Episode]]] = {}
    for e in test:
        by_question.setdefault(e.prompt_id, {True: [], False: []})[e.reward == 1].append(e)
    pairs = []
    for question, sides in sorted(by_question.items()):
        if all(sides.values()):
            right, wrong = (random.Random(question).choice(sides[side]) for side in (True, False))
            both = [final[question, e.sample] for e in (right, wrong)]
            pairs.append(
                (both[0]["at"][-1] - both[1]["at"][-1], [kept(e, r) for e, r in zip((right, wrong), both, strict=True)])
            )
    pairs.sort(key=lambda pair: pair[0])
    half = min(count // 2, len(pairs) // 2)
    return [{"gap": round(gap, 4), "right": r, "wrong": w} for gap, (r, w) in pairs[:half] + pairs[len(pairs) - half :]]


def kept(episode: Episode, row: dict[str, Any]) -> dict[str, Any]:
    """A response to be read."""
    about = {"question": episode.prompt, "variant": episode.metadata[WRITERS[LLAMA2]], "response": episode.completion}
    return {**about, "value": row["steps"]}


def show(results: Sequence[dict[str, Any]]) -> None:
    """Prints the AUCs."""
    for row in results:
        name = row["score"] + (f" - {row['minus']}" if "minus" in row else "")
        print(f"{row['file'][11:16]} {name:<30} at {row['at']:<5} {'matched' if row['matched'] else 'all':<8} "
              f"{row['auc']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]  {row['pairs']} pairs")  # fmt: skip


if __name__ == "__main__":
    main()
