"""Every recipe, end to end at toy size: the real configs, random weights, a tokenizer trained on the spot."""

import json
from pathlib import Path

import pytest
import yaml

from doubles.tokenizers import trained_tokenizer
from stepcredit.cli import main
from stepcredit.engines.engine import Request
from stepcredit.engines.scripted import ScriptedEngine
from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments import reproduce as reproducing
from stepcredit.experiments.recipe import read_recipe
from stepcredit.experiments.reproduce import ReproduceConfig, steps_of
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.rollouts import multi_turn
from stepcredit.rollouts.collect import SOLUTIONS, collect
from stepcredit.rollouts.local_environments import LocalEnvironments
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.demonstrators import demonstrations

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tw-pddl:ResourceWarning")  # left open by textworld
RECIPES = sorted(p for p in (Path(__file__).parents[2] / "recipes").glob("*.yaml") if not p.stem.startswith("compare"))
MINICPM, QWEN = (p for p in RECIPES if p.stem.endswith("alfworld"))
METHODS = {
    "gsm8k": {"rft", "dpo", "kto", "dro", "dqo", "oreo", "oreo-step", "oreo-response"},
    "math": {"rft", "dpo", "kto", "dro", "dqo", "oreo", "oreo-step", "oreo-response"},
    "alfworld": {"rft", "dpo", "oreo", "oreo-step"},
}
ROWS = {
    "gsm8k": [{"question": f"{n} + 1?", "answer": f"{n}+1={n + 1}\n#### {n + 1}"} for n in range(4)],
    "math": [{"problem": f"{n} + 1?", "solution": f"It is $\\boxed{{{n + 1}}}$."} for n in range(4)],
}
TINY = [
    "collect.max_new_tokens=48",
    "evaluate.max_new_tokens=3",
    "evaluate.limit=2",
    *[f"{section}.{setting}" for section in ("sft", "train") for setting in (
        "max_steps=1", "per_device_train_batch_size=4", "gradient_accumulation_steps=1", "bf16=false", "use_cpu=true",
        "activation_checkpointing=false", "save_strategy='no'", "report_to=none",
    )],
]  # fmt: skip


SHORT = ["trust_remote_code=false", "evaluate.max_turns=2", "evaluate.max_new_tokens=4", "collect.num_generations=3"]
TURNS = 10
"""Of the demonstrators that play in the policy's place: some are cut."""


@pytest.fixture(scope="module")
def household(built, tmp_path_factory):
    """(games, a folder with a random policy whose tokenizer knows their words, episodes of good and bad play)."""
    games, folder = built[0], tmp_path_factory.mktemp("household")
    task = ALFWorld(str(games))
    played = [e for problem in task.problems("train") for e in demonstrations(task, problem, 3, 0, TURNS)]
    texts = [m["content"] for e in played for m in [*e.prompt, *e.completion]]
    tokenizer = trained_tokenizer(texts)
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2, max_length=4096), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return games, folder, played


@pytest.fixture
def toy(tmp_path, monkeypatch, request):
    """Overrides that shrink a recipe; collection says right and wrong things in turn."""
    tokenizer = trained_tokenizer([json.dumps(rows) for rows in ROWS.values()])
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def script(request: Request):
        number = int(request.prompt_id.rpartition("-")[2]) + 1 + request.sample % 2
        return [*tokenizer(f"so\n\\boxed{{{number}}}\n#### {number}")["input_ids"], tokenizer.eos_token_id]

    def scripted(config):
        if config.model == SOLUTIONS:
            return collect(config)
        if config.task == "alfworld":
            append_episodes(config.output_dir, request.getfixturevalue("household")[2])
            (Path(config.output_dir) / COLLECTED).write_text('{"task": "alfworld", "step_delimiters": []}')
            return {}
        return collect(config, ScriptedEngine(script, tokenizer))

    monkeypatch.setattr(reproducing, "collect", scripted)
    monkeypatch.setattr(multi_turn, "EnvironmentWorkers", lambda make, workers: LocalEnvironments(make))

    def overrides(recipe):
        asked = yaml.safe_load(recipe.read_text())
        given = [s for s in TINY if "sft" in asked or not s.startswith("sft")]
        if asked["task"] == "alfworld":
            games, model, _ = request.getfixturevalue("household")
            return [f"model={model}", f"data={games}", *given, *SHORT]
        data = tmp_path / f"{asked['task']}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[asked["task"]]))
        return [f"model={tmp_path / 'model'}", f"data={data}", *given]

    return overrides


def test_there_is_a_recipe_for_each_model_and_task():
    maths = [f"{m}-{t}" for m in ("deepseek-math-7b-instruct", "qwen2.5-math-1.5b") for t in ("gsm8k", "math")]
    assert [p.stem for p in RECIPES] == sorted([*maths, "minicpm-2b-alfworld", "qwen2.5-1.5b-instruct-alfworld"])


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_end_to_end(recipe, toy, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["reproduce", str(recipe), "--output_dir", str(out), "--set", *toy(recipe)]
    assert main([*command, "--dry_run"]) == 0
    assert not out.exists()
    assert main(command) == 0
    rows = json.loads((out / "results.json").read_text())
    asked = yaml.safe_load(recipe.read_text())
    methods, splits = list(asked["methods"]), asked["evaluate"]["split"]
    splits = [splits] if isinstance(splits, str) else splits
    assert {(row["method"], row["split"]) for row in rows} == {(m, s) for m in ["sft", *methods] for s in splits}
    assert len(rows) == (1 + len(methods)) * len(splits)
    assert {row["n"] for row in rows} == {2}
    assert set(methods) >= METHODS[asked["task"]]
    assert (out / "report.html").exists()
    for method in methods:
        used = json.loads((out / "seed0" / method / "training_args.json").read_text())
        given = {**asked["train"], **asked["methods"][method]}
        for name in (
            set(given) & {"beta", "kl_coef", "learning_rate", "max_per_outcome", "num_train_epochs"} & set(used)
        ):
            assert used[name] == given[name], (method, name)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    capsys.readouterr()
    assert main(command) == 0
    assert (
        f"done before: {len(steps_of(read_recipe(recipe), ReproduceConfig(str(recipe), str(out))))}"
        in capsys.readouterr().out
    )
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


@pytest.mark.long
def test_a_lost_game_is_learned_from_as_one(household, toy, tmp_path):
    """Solutions are careful demonstrations; cut episodes have reward 0 in training; a turn is a step."""
    played = household[2]
    assert {e.truncated for e in played} == {True, False}
    out = tmp_path / "out"
    command = ["reproduce", str(QWEN), "--output_dir", str(out), "--methods", "oreo-step", "--set", *toy(QWEN)]
    assert main([*command, "evaluate.split=valid_unseen"]) == 0
    solutions = list(load_episodes(out / "solutions"))
    assert len(solutions) == 6
    assert all(e.reward == 1.0 and e.metadata["carelessness"] == 0.0 for e in solutions)
    used = json.loads((out / "seed0" / "oreo-step" / "training_args.json").read_text())
    assert (used["truncated"], used["step_delimiters"], used["level"]) == ("zero", [], "step")
    data = json.loads((out / "seed0" / "oreo-step" / "run.json").read_text())["data"]
    assert data["episodes"] == len(played)
    assert (out / "seed0" / "evaluate-oreo-step" / "results.json").exists()  # of one split: no name after it


@pytest.fixture
def recorded(monkeypatch):
    """The configs that the steps of a recipe make, in their order; nothing is run."""
    found = []

    def record(*configs):
        found.append(configs)
        return {}

    for name in ("collect", "train", "evaluate"):
        monkeypatch.setattr(reproducing, name, record)
    return found


@pytest.mark.parametrize(("recipe", "trusts"), [(MINICPM, True), (QWEN, False)], ids=["minicpm", "qwen"])
def test_code_of_a_repository_is_run_where_the_recipe_says_so_and_nowhere_else(recipe, trusts, recorded, tmp_path):
    said = yaml.safe_load(recipe.read_text())
    assert said.get("trust_remote_code") is (True if trusts else None)
    given = [s for s in TINY if not s.startswith("collect")]
    for step in steps_of(read_recipe(recipe, given), ReproduceConfig(str(recipe), str(tmp_path))):
        step.run()
    kinds = [configs[-1].__class__.__name__ for configs in recorded]
    assert kinds == ["CollectConfig", "SFTConfig", "CollectConfig", *["EvaluateConfig"] * 2] + [
        kind for m in ("RFT", "DPO", "OREO", "OREO") for kind in (f"{m}Config", *["EvaluateConfig"] * 2)
    ]
    assert [configs[-1].trust_remote_code for configs in recorded] == [trusts] * len(recorded)


def test_code_of_a_repository_needs_a_plain_true():
    assert read_recipe(QWEN, ["trust_remote_code=true"]).trust_remote_code is True
    assert read_recipe(MINICPM, ["trust_remote_code=false"]).trust_remote_code is False
    for given in ("'false'", "1", "null"):
        with pytest.raises(InputError, match="trust_remote_code: must be true or false"):
            read_recipe(QWEN, [f"trust_remote_code={given}"])


def test_annotated_episodes_take_the_place_of_solutions(toy, tmp_path):
    out, recipe = tmp_path / "out", RECIPES[-1]
    annotated = [
        Episode(prompt=f"{n} + 1?", completion=f"{n + 1}", reward=1.0, prompt_id=str(n), stop_reason=StopReason.STOP)
        for n in range(3)
    ]
    append_episodes(tmp_path / "annotated", annotated)
    given = [*toy(recipe), f"solutions={{episodes: {tmp_path / 'annotated'}}}"]
    assert main(["reproduce", str(recipe), "--output_dir", str(out), "--methods", "rft", "--set", *given]) == 0
    assert not (out / "solutions").exists()
    learned = json.loads((out / "seed0" / "sft" / "run.json").read_text())
    assert (learned["episodes"], learned["data"]["episodes"]) == ([str(tmp_path / "annotated")], 3)
    steps = steps_of(read_recipe(recipe, given), ReproduceConfig(str(recipe), str(out)))
    assert len(steps) == len(steps_of(read_recipe(recipe), ReproduceConfig(str(recipe), str(out)))) - 1


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("methods.oreo.kl_coeff=1", "methods.oreo: unknown setting 'kl_coeff'; did you mean kl_coef?"),
        ("methods.rft.kl_coef=1", "methods.rft: unknown setting 'kl_coef'"),
        ("trian.beta=1", "unknown setting 'trian'; did you mean train?"),
        ("train.betta=1", "train: unknown setting 'betta'; did you mean beta?"),
        ("collect.num_generation=1", "collect: unknown setting 'num_generation'; did you mean num_generations?"),
        ("collect.model=x", "collect: model is set by the recipe itself; leave it out"),
        ("evaluate.widht=1", "evaluate: unknown setting 'widht'"),
        ("solutions.spilt=train", "solutions: unknown setting 'spilt'; did you mean split?"),
        ("solutions={split: train, episodes: x}", "solutions: episodes cannot be combined with split or limit"),
        ("solutions={episodes: x, limit: 3}", "solutions: episodes cannot be combined with split or limit"),
        *[(f"{section}.trust_remote_code=true", f"{section}: trust_remote_code is set by the recipe itself")
          for section in ("sft", "collect", "train", "methods.oreo", "evaluate")],
        ("methods.oroe={}", "unknown method 'oroe'"),
        ("train=3", "train: must be a mapping of settings"),
        ("model=null", "must set model"),
        ("task", "'task': must be section.setting=value"),
        ("model.x=1", "'model.x=1': model is not a section"),
    ],
)  # fmt: skip
def test_a_typo_is_told_before_anything_runs(override, error):
    with pytest.raises(InputError) as found:
        read_recipe(RECIPES[-1], [override])
    assert error in str(found.value)


def test_a_folder_belongs_to_one_recipe(toy, tmp_path, capsys):
    out, recipe = tmp_path / "out", RECIPES[-1]
    command = ["reproduce", str(recipe), "--output_dir", str(out), "--methods", "rft", "--set", *toy(recipe)]
    assert main(command) == 0
    assert main([*command, "train.beta=0.5"]) == 2
    assert "was started with another train; choose another --output_dir" in capsys.readouterr().err
    assert main([*command, "methods.dpo.beta=0.5"]) == 2
    assert "was started with another dpo" in capsys.readouterr().err
    assert main([*command, "train.save_strategy=no", "--output_dir", str(tmp_path / "other")]) == 2
    assert "save_strategy: must be text, not False" in capsys.readouterr().err
    assert main([*command[:4], "--methods", "ppo"]) == 2
    assert "not in the recipe: ppo" in capsys.readouterr().err
