"""What does a value function learn from 12,800 real graded responses, and does it beat simple baselines?

Reads the logs of 16 prompt variants of Llama-2-chat on the first 800 GSM8K test questions and splits them by question.
Trains a tokenizer and a small model from scratch on the training questions and runs OREO end to end. Then measures
whether V ranks right above wrong responses within a held-out question, for complete and partial responses. The
baselines are length, the variant's success rate, and a bag-of-words classifier on the same prefix. All are measured
again on pairs matched on length and variant.

    python runs/real_logs/run.py --data DIR [--seed 0] [--output_dir runs/real_logs]

Writes results.json and settings.json; timings go to standard output only. The policy is trained on responses to GSM8K
*test* questions, so no GSM8K score of it is reported anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, set_seed

from stepcredit import Episode, OfflineTrainer, OREOConfig, SFTConfig, load_episodes
from stepcredit.episodes.alignment import TokenTexts, Trajectory, align
from stepcredit.episodes.steps import StepRule
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.files import write_json
from stepcredit.logs.import_logs import ImportConfig, import_logs
from stepcredit.metrics.ranking import Estimate, auc_within
from stepcredit.models.scoring import values_of
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.training.progress_callback import show_progress

FILE = "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"
SHARES = (0.25, 0.5, 0.75, 1.0)
LENGTH_TOLERANCE, RATE_TOLERANCE = 0.1, 0.03
"""Matched pairs: lengths within 10% of each other, variants' training success rates within 3 points."""


def main() -> None:
    """Run all steps in order."""
    options = _options()
    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train, test = split_by_question(read(options.data, Path(folder) / "episodes"), options.test_share)
        tokenizer = train_tokenizer([f"{e.prompt}{e.completion}" for e in train], options.vocabulary)
        size = ModelSize(options.hidden, options.hidden * 5 // 2, options.layers, 4, 1024)
        policy = policy_from_scratch(tokenizer, size, options.seed)
        with watch.phase("sft"):
            policy = fit(SFTConfig, policy, tokenizer, train, folder, options, options.sft_epochs, learning_rate=2e-3)
        with watch.phase("oreo"):
            model = fit(
                OREOConfig, policy, tokenizer, train, folder, options, options.oreo_epochs,
                learning_rate=2e-4, value_learning_rate=options.value_lr, beta=0.03, kl_coef=0.01,
            )  # fmt: skip
    with watch.phase("score"):
        rows = judge(model, tokenizer, train, test, options.seed)
    write_json(options.output_dir / "results.json", rows)
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "output_dir")}
    about = {"train_episodes": len(train), "test_episodes": len(test), "data": FILE}
    parameters = sum(p.numel() for p in policy.parameters())
    write_json(options.output_dir / "settings.json", {**settings, **about, "parameters": parameters, **versions()})
    for row in rows:
        print(f"{row['score']:<24} at {row['at']:<5} {'matched' if row['matched'] else 'all':<8} "
              f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['pairs']} pairs")  # fmt: skip
    print(watch.phases)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that contains {FILE}")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test-share", type=float, default=0.25)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sft-epochs", type=float, default=1.0)
    parser.add_argument("--oreo-epochs", type=float, default=1.0)
    parser.add_argument("--value-lr", type=float, default=1e-3)
    return parser.parse_args()


def read(data: Path, out: Path) -> Sequence[Episode]:
    """Import the logs with the importer, as a user would."""
    columns = ["completion=response", "prompt_id=qid"]
    print(import_logs(ImportConfig(files=[str(data / FILE)], output_dir=str(out), columns=columns)).summary())
    return list(load_episodes(out))


def split_by_question(episodes: Sequence[Episode], test_share: float) -> tuple[list[Episode], list[Episode]]:
    """(train, test): all responses to a question fall on the same side, by a hash of its number."""

    def is_test(episode: Episode) -> bool:
        digest = hashlib.sha256(episode.prompt_id.encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < test_share

    return [e for e in episodes if not is_test(e)], [e for e in episodes if is_test(e)]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer trained on the training texts; it reproduces any text exactly."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def fit(
    kind: Any,
    policy: Any,
    tokenizer: Any,
    episodes: list[Episode],
    folder: str,
    options: Any,
    epochs: float,
    **rates: float,
) -> Any:
    """Train and return the policy, or policy and value model for OREO."""
    args = kind(
        output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=16, gradient_accumulation_steps=4,
        seed=options.seed, data_seed=options.seed, use_cpu=True, save_strategy="no", report_to="none", **rates,
    )  # fmt: skip
    trainer = OfflineTrainer(model=policy, args=args, train_dataset=episodes, processing_class=tokenizer)
    show_progress(trainer, args.method)
    trainer.train()
    return trainer.model.policy if trainer.model.value is None else trainer.model


def judge(model: Any, tokenizer: Any, train: list[Episode], test: list[Episode], seed: int) -> list[dict[str, Any]]:
    """One row per score, share of the response, and matching."""
    pieces, rule = TokenTexts(tokenizer), StepRule()
    rows = [align(e, tokenizer, rule, pieces) for e in test]
    values = values_of(model.value, rows)
    rate = variant_rates(train)
    length = np.array([len(str(e.completion)) for e in test], dtype=np.float64)
    variant = np.array([rate[e.metadata["prompt_variant"]] for e in test])
    right = np.array([e.reward == 1 for e in test])
    questions = [e.prompt_id for e in test]
    matched = ((np.log(length), LENGTH_TOLERANCE), (variant, RATE_TOLERANCE))
    results = []
    for share in SHARES:
        scores = {
            "value": np.array([value_at(t, v, share) for t, v in zip(rows, values, strict=True)]),
            "shorter": -length,
            "variant_success_rate": variant,
            "bag_of_words": bag_of_words(train, test, share),
        }
        for name, score in scores.items():
            for controls in ((), matched):
                estimate = auc_within(score, right, questions, controls, seed=seed)
                results.append(_row(name, share, bool(controls), estimate))
    return results


def _row(name: str, share: float, is_matched: bool, e: Estimate) -> dict[str, Any]:
    numbers = {"auc": round(e.estimate, 4), "low": round(e.low, 4), "high": round(e.high, 4)}
    return {"score": name, "at": share, "matched": is_matched, **numbers, "questions": e.groups, "pairs": e.pairs}


def value_at(trajectory: Trajectory, value: NDArray[np.float32], share: float) -> float:
    """V after this share of the response's tokens; 1.0 is the state before the end token."""
    positions = np.flatnonzero(trajectory.action_mask)
    return float(value[positions[int(share * (len(positions) - 1))]])


def variant_rates(train: Sequence[Episode]) -> dict[str, float]:
    """Success rate of each prompt variant on the training questions."""
    rewards: dict[str, list[float]] = {}
    for episode in train:
        assert episode.reward is not None
        rewards.setdefault(episode.metadata["prompt_variant"], []).append(episode.reward)
    return {name: float(np.mean(r)) for name, r in rewards.items()}


def bag_of_words(train: Sequence[Episode], test: Sequence[Episode], share: float) -> NDArray[np.float64]:
    """P(right) by logistic regression on the words and word pairs of the same share of the response."""
    texts = [[prefix(e, share) for e in part] for part in (train, test)]
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(vectors.fit_transform(texts[0]), [e.reward == 1 for e in train])
    probabilities: NDArray[np.float64] = classifier.predict_proba(vectors.transform(texts[1]))[:, 1]
    return probabilities


def prefix(episode: Episode, share: float) -> str:
    """The first characters of a response, up to this share."""
    text = str(episode.completion)
    return text[: int(share * len(text))]


if __name__ == "__main__":
    main()
