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
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, set_seed
from within_question import SHARES, measure, read, scores_of, split_by_question, value_at, variant_rates

from stepcredit import Episode, OfflineTrainer, OREOConfig, SFTConfig
from stepcredit.episodes.alignment import TokenTexts, align
from stepcredit.episodes.steps import StepRule
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.files import write_json
from stepcredit.models.scoring import values_of
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.training.progress_callback import show_progress

FILE = "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"
VARIANT = "prompt_variant"
"""Column of the instruction that a response answers."""


def main() -> None:
    """Run all steps in order."""
    options = _options()
    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train, test = split_by_question(read(options.data / FILE, Path(folder) / "episodes"), options.test_share)
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


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
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
    by_share = {s: [value_at(t, v, s) for t, v in zip(rows, values, strict=True)] for s in SHARES}
    return measure(scores_of(train, test, VARIANT, by_share), test, VARIANT, variant_rates(train, VARIANT), seed)


if __name__ == "__main__":
    main()
