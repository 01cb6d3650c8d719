"""Does the largest drop of V point at the first false equation of a policy's own wrong responses?

Episodes of a policy on word problems with short arithmetic (`stepcredit collect`), whose first false equation a
calculator finds; V of a value model that learned from outcomes only. A step is a line. Beside chance, position, kind of
step (its operators) and length, each fitted to training responses, and β Σρ of a policy against its reference:

    hit                   the largest drop is at the first false equation, of wrong responses that have one
    below_kind_position   that step's drop is larger than that of a right step of its kind at its place, any problem
    below_kind_prompt     … than that of a right step of its kind in a response to the same problem

    python runs/credit/own_errors.py --episodes DIR --value_model DIR [--learned_policy DIR --ref_model DIR]
        [--train_episodes DIR] [--output_dir DIR]

`lines` is "all", or "equations", where the largest drop is looked for among the lines that hold an equation, as others
cannot be false.

Without `--train_episodes` the controls are fitted to one half of the problems and measured on the other, and the other
way round. The only piece is the scoring: a forward pass of each model over the episodes, 0.3 GFLOP a token for V and
0.6 for β Σρ: 2,400 responses of 130 tokens, about an hour on two cores, or seconds on a GPU.
`results.json`, `cases-NAME.json` (ten wrong responses with V of every step), `settings.json`.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from learning import (
    IMPLICIT,
    RULE,
    VALUE,
    Pieces,
    aligned,
    marked,
    options_of,
    parsed,
    step_lengths,
    step_signals,
    write_cases,
)

from stepcredit import Episode, load_episodes
from stepcredit.evaluation.first_error import CHANCE, KIND, LENGTH, POSITION, Marked, first_error_rows, with_controls
from stepcredit.files import write_json
from stepcredit.grading.equations import ANSWER, NO_EQUATION, false_steps, step_kind
from stepcredit.hashes import content_of
from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model
from stepcredit.models.scoring import step_starts

SIZES: dict[str, dict[str, Any]] = {"cpu": {}, "gpu": {}}


def main() -> None:
    """Scores the episodes, then makes the results."""
    parser = options_of(__doc__, SIZES, Path(__file__).parent / "own_errors")
    parser.add_argument(
        "--episodes", type=Path, required=True, help="episodes of the policy, from `stepcredit collect`"
    )
    parser.add_argument("--value_model", type=Path, help="folder of the value model")
    parser.add_argument("--learned_policy", type=Path, help="folder of the policy that learned with it, for β Σρ")
    parser.add_argument("--ref_model", type=Path, help="folder of its reference, for β Σρ")
    parser.add_argument("--train_episodes", type=Path, help="episodes to which the controls are fitted")
    parser.add_argument("--limit", type=int, help="only so many episodes")
    parser.add_argument(
        "--name", default="V", help="name of the piece, one per value model: rows of all are in the results"
    )
    options = parsed(parser, SIZES)
    if (options.learned_policy is None) != (options.ref_model is None) or (
        not options.summarise and not options.value_model
    ):
        parser.error("give --value_model, and --learned_policy and --ref_model together or not at all")
    episodes, left_out = judged(list(load_episodes(options.episodes))[: options.limit])
    if not options.train_episodes and len({e.prompt_id for e in episodes}) < 2:
        parser.error("controls need --train_episodes, or finished responses to two problems: one half fits the other's")
    models = {name: content_of(path and str(path)) for name, path in models_of(options).items()}
    about = {"beta": options.beta, "limit": options.limit, "episodes": content_of(str(options.episodes)), **models}
    pieces = Pieces(options, about)
    if pieces.get(options.name, lambda: piece(episodes, options)) is None:
        return
    training: list[Marked] | None = None
    if options.train_episodes:
        training = [without_model(e) for e in judged(load_episodes(options.train_episodes))[0]]
    results, by_id = [], {(e.prompt_id, e.sample): e for e in episodes}
    for name, rows in pieces.rows().items():
        responses = [marked(row) for row in rows]
        controlled = two_halves(responses) if training is None else with_controls(training, responses)
        common = {"value_model": name, **counts(responses)}
        results += first_error_rows(controlled, {**common, "lines": "all"}, options.seeds[0])
        of_equations = [equations_of(r) for r in controlled]
        rows = first_error_rows(of_equations, {**common, "lines": "equations"}, options.seeds[0])
        results += [row for row in rows if row["metric"] in ("hit", "hit_minus")]
        if name == options.name:
            file = options.output_dir / f"cases-{options.name}.json"
            write_cases(file, controlled, lambda r: texts(by_id[r["problem"], r["sample"]]))
    write_json(options.output_dir / "results.json", results)
    write_json(options.output_dir / "settings.json", {**pieces.settings(), "left_out": left_out})
    show(results)


def models_of(options: Namespace) -> dict[str, Path | None]:
    """The models that score, by the names of their options."""
    return {name: getattr(options, name) for name in ("value_model", "learned_policy", "ref_model")}


def judged(episodes: Sequence[Episode]) -> tuple[list[Episode], Counter[str]]:
    """Finished and decided episodes, with `wrong` and `kinds` of their steps in the metadata; counts of the others."""
    kept, left_out = [], Counter[str]()
    for e in episodes:
        if e.reward is None or e.truncated or not isinstance(e.completion, str) or not e.completion.strip():
            left_out["truncated, undecided or empty"] += 1
            continue
        steps = RULE.split(e.completion)
        marks = {"wrong": false_steps(steps), "kinds": [step_kind(step) for step in steps]}
        kept.append(replace(e, metadata={**e.metadata, **marks}))
    return kept, left_out


def piece(episodes: Sequence[Episode], options: Namespace) -> list[dict[str, Any]]:
    """Scores the episodes: V after every step, and β Σρ of every step where there is a policy."""
    tokenizer = load_tokenizer(str(options.value_model))
    trajectories = aligned(episodes, tokenizer)
    fits = [len(step_starts(t)) == len(e.metadata["wrong"]) + 1 for e, t in zip(episodes, trajectories, strict=True)]
    kept = [pair for pair, fit in zip(zip(episodes, trajectories, strict=True), fits, strict=True) if fit]
    models = [load_policy(str(f)).eval() if f else None for f in (options.learned_policy, options.ref_model)]
    value = load_value_model(str(options.value_model)).eval()
    signals = step_signals([t for _, t in kept], models[0], models[1], value, options)
    return [
        {**without_model(e).about, "lengths": step_lengths(t), **signal}
        for (e, t), signal in zip(kept, signals, strict=True)
    ]


def without_model(episode: Episode) -> Marked:
    """A judged episode as a marked response without signals; lengths in characters."""
    row = {
        "problem": episode.prompt_id,
        "sample": episode.sample,
        "right": episode.reward == 1,
        "wrong": [int(x) for x in episode.metadata["wrong"]],
        "kinds": episode.metadata["kinds"],
        "lengths": [len(step) for step in RULE.split(str(episode.completion))],
    }
    response = marked({**row, "value": [0.0] * (len(row["wrong"]) + 1)})
    return replace(response, signals={}, about=row)


def two_halves(responses: Sequence[Marked]) -> list[Marked]:
    """The responses with controls that are fitted to the other half of the problems."""
    half = {problem: k % 2 for k, problem in enumerate(sorted({r.problem for r in responses}))}
    sides = [[replace(r, fit=str(side)) for r in responses if half[r.problem] == side] for side in (0, 1)]
    return [*with_controls(sides[1], sides[0]), *with_controls(sides[0], sides[1])]


def equations_of(response: Marked) -> Marked:
    """The response without the lines that hold no equation; its signals stay what they were."""
    kept = [k for k, kind in enumerate(response.kinds) if kind not in (ANSWER, NO_EQUATION)]

    def of(steps: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(steps[k] for k in kept)

    signals = {name: of(changes) for name, changes in response.signals.items()}
    return replace(
        response, wrong=of(response.wrong), kinds=of(response.kinds), lengths=of(response.lengths), signals=signals
    )


def counts(responses: Sequence[Marked]) -> dict[str, int]:
    """How many responses there are of each sort."""
    return {
        "right": sum(r.right for r in responses),
        "wrong": sum(not r.right for r in responses),
        "wrong_without_false_equation": sum(not r.right and not any(r.wrong) for r in responses),
        "right_with_false_equation": sum(r.right and any(r.wrong) for r in responses),
    }


def texts(episode: Episode) -> dict[str, Any]:
    """The texts of a response, for the cases."""
    answer = {"answer": episode.metadata["answer"]} if "answer" in episode.metadata else {}
    return {"prompt": episode.prompt, "steps": RULE.split(str(episode.completion)), **answer}


def show(results: Sequence[dict[str, Any]]) -> None:
    """Prints the estimates."""
    for row in results:
        if row["signal"] in (VALUE, IMPLICIT, CHANCE, POSITION, KIND, LENGTH):
            name = row["signal"] + (f" - {row['minus']}" if "minus" in row else "")
            print(f"{row['metric']:<20} {row['of']:<16} {name:<24} "
                  f"{row['estimate']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]  {row['n']}")  # fmt: skip


if __name__ == "__main__":
    main()
