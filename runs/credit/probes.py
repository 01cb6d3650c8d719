"""What does the pretrained model know before it learns? V as a linear probe of its hidden states.

Where V does not find mistakes, either the states of the model do not tell right from wrong, or learning did not get it
out of them. So no layer is trained here: V is a logistic regression on the hidden state in which a step begins, at
several layers, and its strength is chosen within the training problems. On the files of the other scripts:

    mistakes   bigbench_mistake, five folds: learned from outcomes, and from the marks of the other folds (P(no mistake
               so far)), which no value function that learns from outcomes can be expected to beat
    llama2     Llama-2's responses: learned from outcomes, at 25, 50, 75 and 100% of a response, as the bag of words is
    own        the policy's own responses: learned from outcomes, and from the first false equations, of its training
               responses (--train_episodes)

    python runs/credit/probes.py --data DIR [--model DIR] --on mistakes llama2 [--output_dir DIR]
    python runs/credit/probes.py --model DIR --on own --episodes DIR --train_episodes DIR

Hidden states are computed once, a few hundred responses at a time, into --work_dir; an interrupted run goes on there.
`SOURCE.json` for each, and `settings.json`; of the shared options those of learning do nothing here. Needs
scikit-learn. Cost with SmolLM2-135M in bf16 on one core, 480 tokens a second: 22 minutes for mistakes, 10 for own, two
hours and a half for all of llama2, one for 200 and 120 questions.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import llama2
import mistakes
import numpy as np
import own_errors
import torch
from learning import VALUE, aligned, in_batches, marked, options_of, parsed, step_lengths
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from stepcredit import load_episodes
from stepcredit.episodes.alignment import Trajectory
from stepcredit.evaluation.first_error import Marked, first_error_rows, with_controls
from stepcredit.files import write_json
from stepcredit.hashes import content_of
from stepcredit.metrics.ranking import auc_across, auc_within
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.models.scoring import step_starts
from stepcredit.results.provenance import versions

SIZES: dict[str, dict[str, Any]] = {"cpu": {}, "gpu": {}}
LAYERS = (10, 20, 30)
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the penalty."""
RESPONSES_PER_FILE = 256
OUTCOMES, MARKS = "outcomes", "marks"

States = list[NDArray[np.float16]]
"""Hidden states of each response, [places, layers, width]."""
Places = Callable[[Trajectory], NDArray[np.int64]]
"""Positions of the actions before which states are read."""


def main() -> None:
    """Makes the results of each source."""
    parser = options_of(__doc__, SIZES, Path(__file__).parent / "probes")
    parser.add_argument("--on", nargs="+", choices=["mistakes", "llama2", "own"], default=["mistakes", "llama2"])
    parser.add_argument("--layers", type=int, nargs="+", default=list(LAYERS), help="0: the embedding")
    parser.add_argument("--episodes", type=Path, help="own: the policy's responses to test problems")
    parser.add_argument("--train_episodes", type=Path, help="own: its responses to training problems")
    parser.add_argument("--limit", type=int, help="mistakes: only so many traces, evenly over the tasks")
    parser.add_argument("--questions", type=int, default=600, help="llama2: train on at most so many questions")
    parser.add_argument("--test_questions", type=int, default=200, help="llama2: measure on at most so many")
    options = parsed(parser, SIZES)
    folders = {name: getattr(options, name) for name in ("episodes", "train_episodes")}
    if "own" in options.on and None in folders.values():
        parser.error("own needs --episodes and --train_episodes")
    if options.data is None and options.on != ["own"]:
        parser.error("give --data, the folder of the data files")
    sources = {"mistakes": of_mistakes, "llama2": of_llama2, "own": of_own}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    settings = options.output_dir / "settings.json"
    kept = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    model = {"model": options.model.name, "content": content_of(str(options.model))}
    about = {**model, "layers": options.layers, "strengths": STRENGTHS, "versions": versions()}
    sizes = {
        "mistakes": {"limit": options.limit},
        "llama2": {"questions": options.questions, "test_questions": options.test_questions},
        "own": {name: content_of(path and str(path)) for name, path in folders.items()},
    }
    for name in options.on:
        rows = sources[name](options)
        write_json(options.output_dir / f"{name}.json", rows)
        kept[name] = {**about, **sizes[name]}
        write_json(settings, kept)
        show(name, rows)


def of_mistakes(options: Namespace) -> list[dict[str, Any]]:
    """Whether the largest drop of a probe is at the marked first mistake; each fold by probes of the other four."""
    traces = mistakes.read(options.data / mistakes.FILE, options.limit)
    trajectories = aligned([mistakes.episode_of(t) for t in traces], load_tokenizer(str(options.model)))
    states = states_of("mistakes", trajectories, step_starts, options)
    known = [mistakes.marks_of(t, step_lengths(x)) for t, x in zip(traces, trajectories, strict=True)]
    results = []
    for labels in (OUTCOMES, MARKS):
        for k, layer in enumerate(options.layers):
            found: list[Marked] = []
            for fold in range(mistakes.FOLDS):
                sides = [[i for i, t in enumerate(traces) if (t["fold"] == fold) is tested] for tested in (False, True)]
                train, test = (Examples.of([known[i] for i in s], [states[i] for i in s], k) for s in sides)
                rows = [{**row, "value": v} for row, v in zip(test.known, test.read_by(train, labels), strict=True)]
                found += mistakes.controlled(traces, rows, labels)
            results += mistakes.per_task(found, {"labels": labels, "layer": layer, **known_of(found)}, 0)
    return [row for row in results if row["of"] == "wrong responses"]


def of_own(options: Namespace) -> list[dict[str, Any]]:
    """Whether the largest drop of a probe is at the first false equation of the policy's own wrong responses."""
    tokenizer, sides = load_tokenizer(str(options.model)), []
    for folder in (options.train_episodes, options.episodes):
        episodes = own_errors.judged(load_episodes(folder))[0]
        pairs = zip(episodes, aligned(episodes, tokenizer), strict=True)
        pairs = [(e, t) for e, t in pairs if len(step_starts(t)) == len(e.metadata["wrong"]) + 1]
        known = [{**own_errors.without_model(e).about, "lengths": step_lengths(t)} for e, t in pairs]
        trajectories = [t for _, t in pairs]
        name = f"own-{len(sides)}"
        sides.append((known, states_of(name, trajectories, step_starts, options)))
    results = []
    for labels in (OUTCOMES, MARKS):
        for k, layer in enumerate(options.layers):
            train, test = (Examples.of(*side, k) for side in sides)
            values = test.read_by(train, labels)
            responses = [marked({**row, "value": v}) for row, v in zip(test.known, values, strict=True)]
            training = [marked({**row, "value": [0.0] * (len(row["wrong"]) + 1)}) for row in train.known]
            found = with_controls(training, responses)
            results += first_error_rows(found, {"labels": labels, "layer": layer, **known_of(found)}, 0)
    return [row for row in results if row["of"] != "every mistake"]


def of_llama2(options: Namespace) -> list[dict[str, Any]]:
    """Whether a probe ranks right above wrong responses to one question, beside the bag of words."""
    episodes = llama2.read(options.data / llama2.LLAMA2)
    train, test = llama2.split(episodes, options.questions, options.test_questions)
    tokenizer = load_tokenizer(str(options.model))
    sides = []
    for name, part in (("llama2-train", train), ("llama2-test", test)):
        trajectories = aligned(part, tokenizer)
        sides.append(states_of(name, trajectories, shares_of, options))
    column = llama2.WRITERS[llama2.LLAMA2]
    rates = llama2.within.variant_rates(train, column)
    labels, questions = [e.reward == 1 for e in train], [e.prompt_id for e in train]
    results = []
    for k, layer in enumerate(options.layers):
        value = {}
        for at, share in enumerate(llama2.within.SHARES):
            x, y = (np.stack([s[at, k] for s in side]).astype(np.float32) for side in sides)
            value[share] = fitted(x, labels, questions).predict_proba(y)[:, 1]
        scores = llama2.within.scores_of(train, test, column, value, rates)
        found = llama2.within.measure(scores, test, column, rates, 0)
        found += llama2.within.differences(scores, llama2.within.VALUE, test, column, rates, 0)
        results += [{"labels": OUTCOMES, "layer": layer, **row} for row in found]
    return results


def shares_of(trajectory: Trajectory) -> NDArray[np.int64]:
    """Positions of the actions before which a share of the response has been read."""
    return np.array([llama2.within.position_at(trajectory, share) for share in llama2.within.SHARES])


@dataclass(frozen=True)
class Examples:
    """Responses with the states in which their steps begin, and at the end, at one layer.

    Attributes:
        known: what is known of each response without a model.
        states: all states of all responses, [states, width].
        owner: the response of each state.
        step: the number of steps before it.
    """

    known: Sequence[dict[str, Any]]
    states: NDArray[np.float32]
    owner: NDArray[np.int64]
    step: NDArray[np.int64]

    @classmethod
    def of(cls, known: Sequence[dict[str, Any]], states: States, layer: int) -> Examples:
        """The examples of responses, at the layer of this index."""
        lengths = [len(s) for s in states]
        step = np.concatenate([np.arange(n) for n in lengths])
        stacked = np.concatenate([s[:, layer] for s in states]).astype(np.float32)
        return cls(known, stacked, np.repeat(np.arange(len(states)), lengths), step)

    def labels(self, labels: str) -> NDArray[np.bool_]:
        """What V is to predict at each state: that the response is right, or that no mistake has been made yet."""
        if labels == OUTCOMES:
            return np.array([row["right"] for row in self.known])[self.owner]
        first = np.array([row["wrong"].index(1) if any(row["wrong"]) else len(row["wrong"]) for row in self.known])
        return self.step <= first[self.owner]

    def read_by(self, train: Examples, labels: str) -> list[list[float]]:
        """V of a probe of the training examples, before the first step of each response and after each."""
        problems = [train.known[i]["problem"] for i in train.owner]
        weights = 1 / np.bincount(train.owner)[train.owner]
        probe = fitted(train.states, train.labels(labels), problems, weights)
        value = probe.predict_proba(self.states)[:, 1]
        return [value[self.owner == i].tolist() for i in range(len(self.known))]


def fitted(states: NDArray[np.float32], labels: Any, problems: Sequence[str], weights: Any = None) -> Any:
    """Logistic regression whose penalty was chosen by the likelihood of problems left out, in three parts."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    grid = {"logisticregression__C": STRENGTHS}
    search = GridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=StratifiedGroupKFold(3))
    more = {} if weights is None else {"logisticregression__sample_weight": weights}
    return search.fit(states, labels, groups=problems, **more)


def known_of(responses: Sequence[Marked]) -> dict[str, Any]:
    """AUC of V after the response, right against wrong: across problems, and within one where there are several."""
    last = [r.about["value"][-1] for r in responses]
    about = [r.right for r in responses], [r.problem for r in responses]
    found = {"auc_across": auc_across(last, *about), "auc_within": auc_within(last, *about)}
    return {name: round(float(x.estimate), 4) for name, x in found.items() if x.pairs}


def states_of(name: str, trajectories: Sequence[Trajectory], places: Places, options: Namespace) -> States:
    """Hidden states before the actions at these places, computed or from --work_dir."""
    layers = "-".join(map(str, options.layers))
    ids = sha256(b"".join(t.ids.tobytes() for t in trajectories)).hexdigest()[:16]
    folder: Path = options.work_dir / "probes" / f"{name}-{layers}-{content_of(str(options.model))}-{ids}"
    folder.mkdir(parents=True, exist_ok=True)
    policy, states = None, []
    for first in tqdm(range(0, len(trajectories), RESPONSES_PER_FILE), desc=f"states of {name}", mininterval=10):
        file, part = folder / f"{first}.npz", trajectories[first : first + RESPONSES_PER_FILE]
        if not file.exists():
            policy = policy or load_policy(str(options.model), dtype=torch.bfloat16).to(options.device).eval()
            found = in_batches(partial(computed, policy, places, options.layers), part, options)
            draft = file.with_suffix(".draft.npz")
            np.savez(draft, *found)
            draft.rename(file)
        with np.load(file) as kept:
            states += [kept[f"arr_{i}"] for i in range(len(kept.files))]
    return states


@torch.inference_mode()
def computed(model: Any, places: Places, layers: Sequence[int], trajectories: Sequence[Trajectory]) -> States:
    """The same, by the model, as one batch."""
    ids = [torch.tensor(t.ids, dtype=torch.long) for t in trajectories]
    mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True).to(model.device)
    padded = pad_sequence(ids, batch_first=True).to(model.device)
    hidden = model.base_model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
    states = []
    for row, trajectory in enumerate(trajectories):
        before = torch.tensor(places(trajectory) - 1, device=model.device)
        at = torch.stack([hidden[layer][row, before] for layer in layers], 1)
        states.append(at.float().clamp(-6e4, 6e4).cpu().numpy().astype(np.float16))
    return states


def show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints how often the drop of V is at the mistake, or the AUCs."""
    for row in rows:
        about = f"{name:<9} {row['labels']:<9} layer {row['layer']:<3} "
        minus = f" - {row['minus']}" if "minus" in row else ""
        if row.get("signal") == VALUE and row["metric"].startswith("hit"):
            shown = f"{row.get('task', ''):<26} {VALUE + minus:<16} {row['estimate']:+.3f}"
        elif row.get("score") == llama2.within.VALUE:
            matched = "matched" if row["matched"] else "all"
            shown = f"{row['at']:<5} {matched:<8} {'V' + minus:<30} {row['auc']:+.3f}"
        else:
            continue
        print(f"{about}{shown} [{row['low']:+.3f}, {row['high']:+.3f}]")


if __name__ == "__main__":
    main()
