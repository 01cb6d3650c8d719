"""Every recipe against the OREO paper's settings (arXiv 2412.16145, experiments and appendix A), written down by hand.

Compared is what the commands are called with, so that defaults count. Numbers in brackets are ours: the paper gives
none, or, for Qwen2.5-1.5B-Instruct, has no such experiment.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from stepcredit.evaluation.evaluate import EvaluateConfig
from stepcredit.experiments import reproduce as reproducing
from stepcredit.experiments.recipe import read_recipe
from stepcredit.experiments.reproduce import ReproduceConfig, steps_of
from stepcredit.rollouts.collect import SOLUTIONS, CollectConfig
from stepcredit.training.configs import ValueConfig
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.train import TrainConfig

RECIPES = sorted(p for p in (Path(__file__).parents[2] / "recipes").glob("*.yaml") if not p.stem.startswith("compare"))

GSM8K_MATH_15B = """
  method         lr      value lr  epochs  beta    kl_coef  pairs
  sft            2e-5    -         3       -       -        -
  rft            5e-6    -         1       -       -        -
  dpo            5e-7    -         1       0.1     -        6
  kto            5e-8    -         1       (0.1)   -        -
  dro            (5e-6)  (5e-6)    (1)     (0.03)  -        -
  dqo            (5e-6)  (5e-6)    (1)     (0.03)  -        -
  oreo           5e-6    5e-6      1       0.03    0.01     -
  oreo-step      5e-6    5e-6      1       0.03    0.1      -
  oreo-response  5e-6    5e-6      1       0.03    0.3      -
"""
GSM8K_MATH_7B = """
  method         lr      value lr  epochs  beta    kl_coef  pairs
  rft            5e-6    -         1       -       -        -
  dpo            5e-7    -         1       0.1     -        10
  kto            1e-7    -         2       (0.1)   -        -
  dro            (5e-6)  (1e-4)    (2)     (0.03)  -        -
  dqo            (5e-6)  (1e-4)    (2)     (0.03)  -        -
  oreo           5e-6    1e-4      2       0.03    0.01     -
  oreo-step      (5e-6)  (1e-4)    (2)     (0.03)  (0.1)    -
  oreo-response  (5e-6)  (1e-4)    (2)     (0.03)  (0.3)    -
"""
ALFWORLD = """
  method         lr      value lr  epochs  beta    kl_coef  pairs
  sft            2e-5    -         2       -       -        -
  rft            2e-5    -         1       -       -        -
  dpo            5e-7    -         1       0.1     -        5
  oreo           5e-6    5e-6      3       0.03    0.01     -
  oreo-step      (5e-6)  (5e-6)    (3)     (0.03)  (0.1)    -
"""


class Experiment(NamedTuple):
    """What a recipe is to say beside its methods' numbers."""

    model: str
    task: str
    prompt_style: str
    methods: str  # one of the tables above; the model is fine-tuned first where it has SFT
    samples: int  # a prompt
    limit: dict[str, int]  # of a response, in tokens, or of a game, in turns; when collecting and when evaluating
    splits: list[str]  # that policies are evaluated on
    max_length: int  # of an episode, in tokens
    balance: int | None = None  # at most so many right and so many wrong responses of a prompt
    cut: str = "drop"  # episodes cut by a limit
    value_lora: tuple[int, int] | None = None  # (r, alpha) of the value model's adapter; None: it is trained whole
    trusted: bool = False  # whether code of the model's repository is run


SMALL = Experiment(
    model="Qwen/Qwen2.5-Math-1.5B", task="gsm8k", prompt_style="qwen-math", methods=GSM8K_MATH_15B,
    samples=10, limit={"max_new_tokens": 2048}, splits=["test"], max_length=2048,
)  # fmt: skip
LARGE = Experiment(
    model="deepseek-ai/deepseek-math-7b-instruct", task="gsm8k", prompt_style="deepseek-math", methods=GSM8K_MATH_7B,
    samples=16, limit={"max_new_tokens": 2048}, splits=["test"], max_length=2048, balance=4, value_lora=(64, 64),
)  # fmt: skip
GAMES = Experiment(
    model="openbmb/MiniCPM-2B-dpo-bf16", task="alfworld", prompt_style="react", methods=ALFWORLD,
    samples=5, limit={"max_turns": 40}, splits=["valid_unseen", "valid_seen"], max_length=4096, cut="zero",
    trusted=True,
)  # fmt: skip
EXPERIMENTS = {
    "qwen2.5-math-1.5b-gsm8k": SMALL,
    "qwen2.5-math-1.5b-math": SMALL._replace(task="math"),
    "deepseek-math-7b-instruct-gsm8k": LARGE,
    "deepseek-math-7b-instruct-math": LARGE._replace(task="math"),
    "minicpm-2b-alfworld": GAMES,
    "qwen2.5-1.5b-instruct-alfworld": GAMES._replace(model="Qwen/Qwen2.5-1.5B-Instruct", trusted=False),
}

OF_ALL = {
    "batch": 128,
    "optim": "adamw",
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,  # of all
    "bf16": True,
    "max_steps": -1,  # the epochs decide
    "use_peft": False,
    "value_model": None,  # the policy's start, with a new head
    "ref_model": None,  # the policy's start
}
LABELLED = {"reward_threshold": 1.0}  # rewards are 0 and 1
VALUED = {"value_coef": 1.0, "value_warmup_steps": 0}
OREO = {**VALUED, "kl_estimator": "exact", "normalizer": None}
OF_EACH = {
    "sft": {},
    "rft": LABELLED,
    "dpo": LABELLED,
    "kto": {**LABELLED, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "dro": VALUED,
    "dqo": {**VALUED, "lam": 1.0, "importance_weight": True, "segments": "token"},
    "oreo": {**OREO, "policy_segments": "token", "value_segments": "token"},
    "oreo-step": {**OREO, "policy_segments": "step", "value_segments": "step"},
    "oreo-response": {**OREO, "policy_segments": "response", "value_segments": "token"},
}
PLAIN_SAMPLING = {"split": "train", "limit": None, "temperature": 1.0, "top_p": 1.0, "top_k": 0}  # ours

COMPARED = {"learning_rate", "value_learning_rate", "num_train_epochs", "beta", "kl_coef", "max_pairs_per_prompt",
            "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "max_length", "max_per_outcome",
            "truncated", "value_use_peft", "lora_r", "lora_alpha"}  # fmt: skip
"""What a recipe may set of training: all of it is compared below."""
FREE = {"activation_checkpointing", "step_delimiters"}
"""And what it may set without being compared here: the first changes memory alone, the second is the task's."""

of_every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)


class Calls(NamedTuple):
    """The configs that a recipe calls the commands with; those of training by method."""

    collected: list[CollectConfig]
    trained: dict[str, tuple[TrainConfig, OfflineConfig]]
    evaluated: list[EvaluateConfig]


@pytest.fixture
def calls(recipe, monkeypatch, tmp_path):
    """Those of a recipe, recorded; nothing is run."""
    found = Calls([], {}, [])

    def train(config, args):
        found.trained[Path(args.output_dir).name] = config, args

    monkeypatch.setattr(reproducing, "collect", found.collected.append)
    monkeypatch.setattr(reproducing, "train", train)
    monkeypatch.setattr(reproducing, "evaluate", found.evaluated.append)
    for step in steps_of(read_recipe(recipe), ReproduceConfig(str(recipe), str(tmp_path))):
        step.run()
    return found


def rows_of(table):
    """{method: numbers}, in brackets or not; None for what a method does not have."""
    heading, *lines = [line.split() for line in table.strip().splitlines()]
    assert heading == ["method", "lr", "value", "lr", "epochs", "beta", "kl_coef", "pairs"]
    return {method: [None if n == "-" else float(n.strip("()")) for n in numbers] for method, *numbers in lines}


def row_of(args):
    """The same numbers of a method's arguments."""
    value_lr = (args.value_learning_rate or args.learning_rate) if isinstance(args, ValueConfig) else None
    names = ("beta", "kl_coef", "max_pairs_per_prompt")
    return [args.learning_rate, value_lr, args.num_train_epochs, *(getattr(args, name, None) for name in names)]


def test_every_recipe_has_its_entry():
    assert {p.stem for p in RECIPES} == set(EXPERIMENTS)


@of_every_recipe
def test_rates_epochs_and_weights(recipe, calls):
    """Of every method of the recipe, and of no other."""
    trained = {method: row_of(args) for method, (_, args) in calls.trained.items()}
    assert trained == rows_of(EXPERIMENTS[recipe.stem].methods)


@of_every_recipe
def test_optimizer_batch_and_losses(recipe, calls):
    for method, (config, args) in calls.trained.items():
        expected = {**OF_ALL, **OF_EACH[method]}
        made = {
            "batch": args.per_device_train_batch_size * args.gradient_accumulation_steps,
            "optim": args.optim.partition("_")[0],
        }
        found = {k: made[k] if k in made else getattr(config if hasattr(config, k) else args, k) for k in expected}
        assert found == expected, method


@of_every_recipe
def test_episodes_and_the_value_model(recipe, calls):
    paper = EXPERIMENTS[recipe.stem]
    for method, (config, args) in calls.trained.items():
        balance, cut = (None, "drop") if method == "sft" else (paper.balance, paper.cut)
        assert (args.max_length, args.max_per_outcome, args.truncated) == (paper.max_length, balance, cut), method
        lora = paper.value_lora if isinstance(args, ValueConfig) else None
        assert ((config.lora_r, config.lora_alpha) if config.value_use_peft else None) == lora, method


@of_every_recipe
def test_model_and_data(recipe, calls, tmp_path):
    paper = EXPERIMENTS[recipe.stem]
    tuned = "sft" in rows_of(paper.methods)
    start = str(tmp_path / "seed0" / "sft" / "policy") if tuned else paper.model
    starts = {method: config.model for method, (config, _) in calls.trained.items()}
    assert starts == {method: paper.model if method == "sft" else start for method in starts}
    assert {args.trust_remote_code for _, args in calls.trained.values()} == {paper.trusted}
    *solutions, drawn = calls.collected
    assert [(c.model, c.split, c.limit) for c in solutions] == [(SOLUTIONS, "train", None)] * tuned
    assert drawn.model == start
    for config in [*calls.collected, *calls.evaluated]:
        chosen = (config.task, config.prompt_style, config.trust_remote_code)
        assert chosen == (paper.task, paper.prompt_style, paper.trusted)
    asked = {
        "num_generations": paper.samples,
        **PLAIN_SAMPLING,
        "max_new_tokens": None,
        "max_turns": None,
        **paper.limit,
    }
    assert {name: getattr(drawn, name) for name in asked} == asked


@of_every_recipe
def test_evaluation(recipe, calls):
    paper = EXPERIMENTS[recipe.stem]
    methods = ["sft", *(method for method in calls.trained if method != "sft")]  # "sft": the start, tuned or not
    assert [(c.method, c.split) for c in calls.evaluated] == [(m, s) for m in methods for s in paper.splits]
    asked = {"search": "greedy", "limit": None, "max_new_tokens": None, "max_turns": None, **paper.limit}
    for config in calls.evaluated:
        assert {name: getattr(config, name) for name in asked} == asked


@of_every_recipe
def test_a_recipe_sets_nothing_that_is_not_compared(recipe):
    asked = yaml.safe_load(recipe.read_text())
    for section in (asked.get("sft", {}), asked["train"], *asked["methods"].values()):
        assert set(section) <= COMPARED | FREE
    assert set(asked["collect"]) <= {"num_generations", "max_new_tokens", "max_turns", *PLAIN_SAMPLING}
    assert set(asked["evaluate"]) <= {"split", "search", "max_new_tokens", "max_turns"}
