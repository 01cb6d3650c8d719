"""Iterative training: rounds of collection, training and evaluation, each with a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from stepcredit.errors import InputError
from stepcredit.experiments.iteration.manifest import changed_files, check_round, model_files, read_round
from stepcredit.experiments.iteration.rounds import Round, gain_of
from stepcredit.experiments.leakage import Learned
from stepcredit.experiments.method_settings import read_settings, settings_of
from stepcredit.experiments.recipe import MADE_HERE
from stepcredit.experiments.variants import legend
from stepcredit.files import changed_settings, holds_something, locked, read_manifest, write_json
from stepcredit.flags import flag
from stepcredit.models.actor_critic import SAVED
from stepcredit.progress import track
from stepcredit.report.page import write_report
from stepcredit.results.provenance import versions
from stepcredit.results.row_files import write_rows
from stepcredit.rollouts.task_settings import HOW_ASKED, SamplingSettings, TaskSettings
from stepcredit.settings import Limits
from stepcredit.tasks.task import Task
from stepcredit.training.methods import METHODS
from stepcredit.training.train import TrainConfig

BEGUN = "iterate.json"
"""What a folder was begun with."""
_FREE = ("rounds", "patience", "keep_models", "output_dir", "data", "workers", "batch_size", "dry_run", "verify",
         "settings", *HOW_ASKED)  # fmt: skip
"""Settings that change no finished round, or that the manifest has in another form."""
_MADE = MADE_HERE | {"ref_model", "data_seed", "resume_from_checkpoint", "chat_template", "merge_system_message",
                     "dry_run"}  # fmt: skip


@dataclass(kw_only=True)
class IterateConfig(SamplingSettings, TaskSettings):
    """Train in rounds: sample responses with the policy of the round before, train on them, evaluate, and again.

    Round 0 is the evaluation of --model. Each round writes roundN/ with its episodes, models, responses and
    manifest.json: inputs, settings, seeds and a hash of every file. Run the command again to resume, or with more
    --rounds to go on. --reference, --value_init and --train_on are what papers on iterative training leave open; by
    default each round is what `collect` and `train` do by hand. Prompts and noise differ from round to round (tasks
    with a fixed list of problems, such as gsm8k, give the same prompts); all rounds are evaluated on the same problems.

    Interrupted or not, a run ends in the same weights and, times aside, the same manifests, given the same number of
    threads (and, for large vocabularies, a set `head`, which is timed otherwise). To make the last round anew, remove
    its folder and run the command again.
    """

    model: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("model", "The start."))
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "An interrupted run resumes in it.")
    )
    method: str = field(metadata={"help": "Training method; --settings has its settings.", "choices": list(METHODS)})
    rounds: Annotated[int, Limits(at_least=1)] = field(default=3, metadata={"help": "Number of rounds."})
    split: str = field(default="train", metadata=flag("split", "The one that is trained on."))
    num_generations: Annotated[int, Limits(at_least=1)] = field(default=8, metadata=flag("num_generations"))
    balanced: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("balanced", default="keep all")
    )
    settings: str = field(default="{}", metadata=flag("settings", "Those of stepcredit train."))
    reference: str = field(
        default="moving",
        metadata={
            "help": "The reference of a round, for methods with one: moving (the policy of the round before) or fixed "
            "(the start).",
            "choices": ["moving", "fixed"],
        },
    )
    value_init: str = field(
        default="fresh",
        metadata={
            "help": "The value model that a round starts from, for methods with one: fresh (the policy of the round "
            "before, with a head of zeros) or carried (that of the round before).",
            "choices": ["fresh", "carried"],
        },
    )
    train_on: str = field(
        default="round",
        metadata={
            "help": "Episodes of a round: round (those collected in it) or accumulated (those of all rounds so far).",
            "choices": ["round", "accumulated"],
        },
    )
    validation_split: str = field(default="validation", metadata={"help": "Split for validation."})
    validation_prompts: Annotated[int, Limits(at_least=0)] = field(
        default=400, metadata={"help": "Number of validation problems; 0: no validation."}
    )
    test_split: str = field(default="test", metadata={"help": "Split for the test."})
    test_prompts: Annotated[int, Limits(at_least=0)] = field(
        default=1000, metadata={"help": "Number of test problems; 0: no test."}
    )
    searches: Annotated[list[str], Limits(not_empty=True)] = field(
        default_factory=lambda: ["greedy"],
        metadata={
            "help": "Decoding of the evaluations: greedy, sample; validation takes their mean.",
            "choices": ["greedy", "sample"],
        },
    )
    patience: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Stop after so many rounds in a row that do not help; default: never. A round helps if its "
            "validation accuracy is above that of every round before, by however little: of 400 problems two "
            "accuracies differ by 2 or 3 points by chance alone, so take 2 or more, or many problems. The manifest has "
            "the difference on the same problems with its 95%% interval."
        },
    )
    keep_models: str = field(
        default="all",
        metadata={
            "help": "Policies and value models to keep: all, or last: those of the last round and of the one with the "
            "best validation accuracy.",
            "choices": ["all", "last"],
        },
    )
    verify: bool = field(
        default=False,
        metadata={"help": "Make nothing: with the flags of a finished run, check its files against its manifests."},
    )
    dry_run: bool = field(default=False, metadata=flag("dry_run"))


def iterate(config: IterateConfig) -> dict[str, Any]:
    """Runs what is missing of the rounds; returns counts (see `IterateConfig`).

    Writes `roundN/` per round, `results.json` (rounds × splits × searches), `curves.json`, `run.json`, `report.html`
    and `iterate.json`, what the folder was begun with.

    Raises:
        InputError: inconsistent settings, a folder of another iteration, a file of a finished round that has changed,
            or an error of a stage.
    """
    out = Path(config.output_dir)
    if config.verify:
        return verify(out)
    rounds = _rounds(config, config.load_task())
    if config.dry_run:
        return _plan(rounds)
    rounds[1].training()  # the method's config, which depends on the device, is checked before anything is written
    with locked(out, "stepcredit iterate"):
        _check_begun(rounds)
        try:
            stopped = _run(rounds)
        except BaseException:
            if not holds_something(out, [BEGUN]):  # the folder is free for other settings
                (out / BEGUN).unlink(missing_ok=True)
            raise
    done = sum(read_round(r.folder) is not None for r in rounds[1:])
    return {"rounds": done, **({"stopped": stopped} if stopped else {})}


def verify(out: Path) -> dict[str, Any]:
    """Checks all files of the finished rounds of a folder against their manifests; returns counts.

    Raises:
        InputError: there are no finished rounds, or a file is missing, new or changed; names all of them.
    """
    begun = read_manifest(out / BEGUN, ("keep_models",)) if (out / BEGUN).exists() else {}
    manifests = list(_manifests(out))
    if not manifests:
        raise InputError("holds no finished round", str(out))
    may_be_gone = begun.get("keep_models") == "last"
    changed = [line for manifest in manifests for line in changed_files(manifest, out, may_be_gone)]
    if changed:
        raise InputError("; ".join(dict.fromkeys(changed)), str(out))
    return {"rounds": len(manifests) - 1, "changed files": 0}


def _manifests(out: Path) -> Iterator[dict[str, Any]]:
    """Yields the manifests of finished rounds, from round 0 on."""
    number = 0
    while (manifest := read_round(out / f"round{number}")) is not None:
        yield manifest
        number += 1


def _rounds(config: IterateConfig, task: Task) -> list[Round]:
    """Returns all rounds, from round 0 on, after checking the settings."""
    settings = settings_of(read_settings(config.settings, [config.method], TrainConfig, _MADE), config.method)
    if config.value_init == "carried" and settings.get("shared_trunk"):
        raise InputError("a value model on the policy's trunk is made with the policy; choose fresh", "value_init")
    if config.patience is not None and not config.validation_prompts:
        raise InputError("needs validation; choose --validation_prompts above 0", "patience")
    if config.validation_prompts and config.test_prompts and config.validation_split == config.test_split:
        raise InputError(f"{config.test_split} is the split for the test; choose another", "validation_split")
    if config.server_model is not None:
        raise InputError("names one policy, and every round has another; serve each under the name of its folder",
                         "server_model")  # fmt: skip
    splits = {config.validation_split: config.validation_prompts} if config.validation_prompts else {}
    splits |= {config.test_split: config.test_prompts} if config.test_prompts else {}
    _check_apart(config, task, splits)
    fixed = {k: v for k, v in asdict(config).items() if k not in _FREE}
    fixed |= {"settings": settings, "task_version": task.version, "source_versions": task.source_versions}
    validates = config.validation_prompts > 0
    return [Round(k, config, settings, fixed, splits, validates) for k in range(config.rounds + 1)]


def _check_apart(config: IterateConfig, task: Task, splits: dict[str, int]) -> None:
    """Check that no problem is both trained on and evaluated."""
    learned = Learned(task)
    learned.add(task.problems(config.split, config.limit, config.seed))
    for split, count in splits.items():
        try:
            problems = task.problems(split, count, config.seed)
        except InputError as error:
            name = "validation_split" if split == config.validation_split else "test_split"
            raise InputError(f"{name}: {error.what}", error.where) from error
        if both := learned.among(problems):
            raise InputError(f"{both} problems of {split} are prompts of {config.split} too; choose another --split, "
                             "such as train_without_validation, or other problems for evaluation", "split")  # fmt: skip


def _plan(rounds: list[Round]) -> dict[str, Any]:
    """Returns what would be done."""
    config = rounds[0].config
    prompts = len(config.load_task().problems(config.split, config.limit, config.seed))
    left = [(r.number, stage) for r in rounds if read_round(r.folder) is None for stage in r.stages()
            if stage not in r.finished()]  # fmt: skip
    return {
        "rounds": config.rounds,
        "finished": sum(read_round(r.folder) is not None for r in rounds[1:]),
        "responses per round": prompts * config.num_generations,
        **{f"problems of {split}": count for split, count in rounds[0].splits.items()},
        "stages left": len(left),
        "next": "{1} of round {0}".format(*left[0]) if left else "nothing",
    }


def _check_begun(rounds: list[Round]) -> None:
    """Check that the folder belongs to these settings and this start, and that its finished rounds are unchanged; then
    record what it is begun with."""
    config, out = rounds[0].config, Path(rounds[0].config.output_dir)
    new = {"settings": rounds[0].fixed, "start": model_files(config.model, out), "keep_models": config.keep_models}
    file = out / BEGUN
    if file.exists():
        old = read_manifest(file, tuple(new))
        changed = changed_settings(old["settings"], new["settings"])
        known = old["start"]["files"] and new["start"]["files"]  # of a name on the hub, once it has been downloaded
        if not changed and known and old["start"]["files"] != new["start"]["files"]:
            changed = [f"content of {config.model}"]
        if changed:
            raise InputError(f"was begun with another {', '.join(changed)}; choose another --output_dir", str(out))
        new["keep_models"] = "last" if "last" in (old["keep_models"], config.keep_models) else "all"
        for r in rounds:
            if (finished := read_round(r.folder)) is not None:
                check_round(finished, out, may_be_gone=old["keep_models"] == "last")
    elif holds_something(out):
        raise InputError("is not empty and was not begun by iterate; choose another --output_dir", str(out))
    write_json(file, {**new, **versions()})


def _run(rounds: list[Round]) -> str | None:
    """Runs all unfinished stages; returns the reason for stopping early, if any."""
    config = rounds[0].config
    stages = sum(len(r.stages()) for r in rounds)
    steps = track(range(stages), f"iterate {config.method}", stages, "stages")
    best: tuple[float, int, dict[str, float]] | None = None
    unhelpful, stopped = 0, None
    for r in rounds:
        is_new = read_round(r.folder) is None
        for stage in r.stages():
            next(steps)
            if is_new and stage not in r.finished():
                r.run(stage)
        scores = r.validation()
        gain = None if best is None or not scores else gain_of(scores, best[2], best[1])
        if is_new:
            r.write_manifest(gain)
        if scores and (best is None or (gain is not None and gain["helped"])):
            best, unhelpful = (fmean(scores.values()), r.number, scores), 0
        elif scores:
            unhelpful += 1
        if config.keep_models == "last":
            _remove_models(rounds[1 : r.number], best)
        stopped = _reason(config, r.number, unhelpful, gain)
        if is_new or stopped or r is rounds[-1]:
            _gather(rounds[: r.number + 1], best, stopped)
        if stopped:
            break
    return stopped


def _reason(config: IterateConfig, number: int, unhelpful: int, gain: dict[str, Any] | None) -> str | None:
    """Returns why to stop after a round; None if another round is to be made."""
    if gain is None or config.patience is None or unhelpful < config.patience:
        return None
    points = [f"{100 * gain[name]:+.1f}" for name in ("difference", "low", "high")]
    rounds = "a round" if unhelpful == 1 else f"{unhelpful} rounds"
    return (f"after round {number}, {rounds} without a validation accuracy above that of round {gain['against_round']} "
            f"({points[0]} points, 95% interval {points[1]} to {points[2]})")  # fmt: skip


def _remove_models(earlier: list[Round], best: tuple[float, int, dict[str, float]] | None) -> None:
    """Removes the models of earlier rounds, but for the best."""
    for r in earlier:
        if best is None or r.number != best[1]:
            for part in SAVED:
                shutil.rmtree(r.folder / "train" / part, ignore_errors=True)


def _gather(done: list[Round], best: tuple[float, int, dict[str, float]] | None, stopped: str | None) -> None:
    """Writes the results of the finished rounds, and the report."""
    config, out = done[0].config, Path(done[0].config.output_dir)
    rows = [
        replace(row, round=r.number, policy=f"round{r.number}/train/policy" if r.number else config.model)
        for r in done
        for row in r.rows()
    ]
    names = {f"{config.method}, round {r.number}": r.curve() for r in done[1:]}
    about = {"rounds": len(done) - 1, "best_round": None if best is None else best[1], "stopped": stopped}
    write_json(out / "curves.json", names)
    write_json(out / "run.json", {"command": "iterate", **about, **done[0].fixed, "methods": legend([config.method]),
                                  **versions()})  # fmt: skip
    if rows:
        write_rows(out / "results.json", rows)
        write_report(out)
