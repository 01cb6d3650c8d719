"""Evaluate: how often is a policy right, how sure is that, and what did it cost?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import SamplingParams
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation.breakdown import group_rows, reading_rows
from stepcredit.evaluation.conversing import conversed
from stepcredit.evaluation.rows import Search, named, result_row, search_params, write_value_files
from stepcredit.evaluation.searching import CHOOSERS, NEED_SCORER, Bench, Strategy, trace_of
from stepcredit.evaluation.value_quality import score
from stepcredit.files import write_json, write_lines
from stepcredit.flags import flag
from stepcredit.metrics.samples import powers_of_two
from stepcredit.models.states import ValueStates, value_states
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.store import add_rows, read_rows
from stepcredit.rollouts.models import Models
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.single_turn import sample_and_grade, sampling
from stepcredit.rollouts.task_settings import SamplingSettings, TaskSettings
from stepcredit.rollouts.work_units import WorkFolder, work_units
from stepcredit.search.beam import BeamParams
from stepcredit.search.scorers import Scorer, ValueScorer
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem, Task
from stepcredit.training.methods import legend

SEARCHES = ["greedy", "sample", *CHOOSERS, "beam", "random", "all"]


@dataclass(kw_only=True)
class EvaluateConfig(SamplingSettings, TaskSettings):
    """Score a policy on a task's problems, with a standard error and the tokens it cost: strict and lenient accuracy,
    pass@k and maj@k of several samples, by level and type; with a value model, also what that knows about the
    responses. Every response is kept for reading. Run it again to go on where it stopped."""

    model: str = field(metadata=flag("model"))
    output_dir: str = field(metadata=flag("output_dir", "Every response is kept in responses/."))
    value_model: str | None = field(default=None, metadata=flag("value_model", "Judged with --search sample."))
    method: str = field(default="", metadata={"help": "What the rows call the policy; default: its folder."})
    split: str = field(default="test", metadata=flag("split"))
    search: str = field(
        default="greedy",
        metadata={
            "help": "How an answer is found: greedy; sample (--num_generations each, all counted); of --width sampled "
            "responses the most frequent answer (vote), the one that weighs most by values (weighted-vote), or the "
            "most valued response (best-of); a step beam of --width (beam); or all of these at every power of two up "
            "to --width (all). Of an interactive task: greedy, sample, the most valued of --width replies each turn "
            "(best-of), any of as many (random), or all of these up to --width (all).",
            "choices": SEARCHES,
        },
    )
    width: int = field(default=4, metadata={"help": "Responses (K) or beams (B) of a search."})
    continuations: int | None = field(
        default=None,
        metadata={"help": "Steps drawn of each beam; default: --width. With --width 1, best of so many a step."},
    )
    max_step_tokens: int | None = field(
        default=None,
        metadata={
            "help": "A beam's step without a delimiter ends after so many tokens; default: 256, or as the value model "
            "was trained at step level, which it must equal."
        },
    )
    choose: str = field(
        default="value",
        metadata={
            "help": "The beam's last choice: by value, or by a vote weighed by values.",
            "choices": ["value", "vote"],
        },
    )
    budget: int | None = field(
        default=None, metadata={"help": "Tokens generated and scored, at most so many a problem."}
    )
    reward_model: str | None = field(
        default=None,
        metadata=flag("reward_model"),
    )
    trace: str | None = field(
        default=None, metadata={"help": "A page that draws the beam's tree of the first problem (--search beam)."}
    )
    num_generations: int = field(default=1, metadata=flag("num_generations", "With --search sample."))


def evaluate(config: EvaluateConfig, models: Models | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Writes the result files of one evaluation; returns its rows of `results.json` and of `groups.json`.

    Args:
        config: what to evaluate, and how.
        models: in place of those that the config names.

    Raises:
        InputError: an unknown task, split or search, or a model that does not load.
    """
    task = config.load_task()
    _check(config, task)
    out, watch = Path(config.output_dir), Stopwatch()
    problems = list(task.problems(config.split, config.limit, config.seed))
    common = {
        "task": task.name,
        "task_version": task.version,
        **({"source_versions": task.source_versions} if task.source_versions else {}),
        **({"prompt_style": config.prompt_style} if config.prompt_style else {}),
        "split": config.split,
        "seed": config.seed,
        "method": config.method or Path(config.model).name,
        "policy": config.model,
        "value": config.value_model,
    }
    responses = out / "responses" / f"{config.method or 'policy'}-{config.split}-{config.search}-seed{config.seed}"
    models = models or Models(config)
    _ = models.tokenizer  # a policy that is not there is found before anything is written
    groups: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with watch.phase("generate"):
        for search, episodes in _searched(config, task, problems, models, responses):
            rows.append(result_row(episodes, problems, search, common))
            groups += group_rows(episodes, problems, {**common, **named(search)})
    add_rows(out / "results.json", rows)
    if groups:
        add_rows(out / "groups.json", groups)
    if config.search == "all" and not isinstance(task, InteractiveTask):
        from stepcredit.report.cost import write_cost  # draws with matplotlib, which few evaluations need

        write_cost(out / "cost.svg", read_rows(out / "results.json"))
    if config.value_model is not None and config.search in ("greedy", "sample"):
        value_model = models.value_model
        scored = score(value_model, models.tokenizer, episodes, step_rule(task, value_states(value_model)))
        write_value_files(out, scored, task, problems, common)
    write_json(out / "timings.json", watch.phases)
    methods = legend(row["method"] for row in read_rows(out / "results.json"))
    write_json(out / "run.json", {"command": "evaluate", **vars(config), "methods": methods, **versions()})
    return rows, groups


def _check(config: EvaluateConfig, task: Task) -> None:
    if config.search not in SEARCHES:
        raise InputError(f"{config.search!r} is none of {', '.join(SEARCHES)}", "search")
    for name in ("num_generations", "width"):
        if getattr(config, name) < 1:
            raise InputError(f"{getattr(config, name)} must be 1 or more", name)
    if config.search == "random" and not isinstance(task, InteractiveTask):
        raise InputError("random is a choice among replies, of an interactive task (fetch, alfworld)", "search")
    if config.search in NEED_SCORER and config.value_model is None and config.reward_model is None:
        raise InputError(f"{config.search} needs --value_model, or a --reward_model", "search")
    if config.trace is not None and config.search != "beam":
        raise InputError("only a beam has a tree to draw: --search beam", "trace")


def _searched(
    config: EvaluateConfig, task: Task, problems: Sequence[Problem], models: Models, responses: Path
) -> Iterator[tuple[Search, list[Episode]]]:
    """(a strategy, its episodes) for each that the config asks for; the episodes are kept as lines for reading too."""
    asked = _asked(config, task)
    params = sampling(config, task)
    if isinstance(task, InteractiveTask):
        engine = stepping(models.engine, task.name)
        for way, episodes in conversed(config, task, problems, engine, models.scorer, params, responses, asked):
            write_lines(responses.with_name(f"{responses.name}-{way.name}{way.width}.jsonl"), reading_rows(episodes))
            yield Search(way.name, way.width, way.params), episodes
        return
    if config.search in ("greedy", "sample"):
        search = search_params(config, task)
        episodes = _drawn(responses, config, task, problems, search, models, asked)
        write_lines(responses.with_suffix(".jsonl"), reading_rows(episodes))
        yield search, episodes
        return
    scorer = models.scorer
    rule = _beam_rule(config, task, scorer)
    bench = Bench(task, problems, models.engine, scorer, params, _beam_params(config, params), rule, responses, asked)
    if config.search == "all":
        greedy = search_params(replace(config, search="greedy"), task)
        episodes = _drawn(
            responses.with_name(f"{responses.name}-greedy"), config, task, problems, greedy, models, asked
        )
        yield greedy, episodes
        sampled = [e for group in bench.pool(config.width) for e in group]
        yield Search("sample", config.width, params), sampled
    for strategy in strategies(config):
        episodes = bench.answers(strategy, config.width)
        name = f"{responses.name}-{strategy.name}{strategy.width}.jsonl"
        write_lines(responses.with_name(name), reading_rows(episodes))
        yield Search(strategy.name, strategy.width, params), episodes
    if config.trace is not None:
        from stepcredit.report.trace import write_trace  # draws with matplotlib, which no other evaluation needs

        params_of_trace = replace(bench.beam, width=config.width)
        write_trace(Path(config.trace), trace_of(bench, problems[0], params_of_trace))


def strategies(config: EvaluateConfig) -> list[Strategy]:
    """The searches that a config asks for, at their widths: for "all", those that have what they need."""
    if config.search != "all":
        return [Strategy(config.search, config.width)]
    has_scorer = config.value_model is not None or config.reward_model is not None
    names = [name for name in (*CHOOSERS, "beam") if has_scorer or name not in NEED_SCORER]
    return [Strategy(name, width) for name in names for width in powers_of_two(config.width)]


MAX_STEP_TOKENS = 256


def step_rule(task: Task, states: ValueStates | None, max_step_tokens: int | None = None) -> StepRule:
    """Where the steps of a task end: as V was trained, where that was at step level; else by the task's delimiters.

    Raises:
        InputError: another limit than V was trained with.
    """
    if states is None or states.level != "step":
        return StepRule(task.step_delimiters, max_step_tokens or MAX_STEP_TOKENS)
    if max_step_tokens not in (None, states.max_step_tokens):
        trained = states.max_step_tokens
        raise InputError(f"{max_step_tokens}: the value model was trained on steps of at most {trained} tokens",
                         "max_step_tokens")  # fmt: skip
    return states.rule


def _beam_rule(config: EvaluateConfig, task: Task, scorer: Scorer | None) -> StepRule:
    states = value_states(scorer.model) if isinstance(scorer, ValueScorer) else None
    if states is not None and states.level == "response":
        raise InputError("was trained at prompts alone (response level), and says nothing of what was written",
                         "value_model")  # fmt: skip
    return step_rule(task, states, config.max_step_tokens)


def _beam_params(config: EvaluateConfig, params: SamplingParams) -> BeamParams:
    return BeamParams(
        width=config.width,
        continuations=config.continuations,
        max_new_tokens=params.max_new_tokens,
        choose=config.choose,
        budget=config.budget,
        seed=params.seed,
    )


def _asked(config: EvaluateConfig, task: Task) -> dict[str, Any]:
    """What the responses depend on; the widths of a search are in the names of what is kept."""
    asked = {**asdict(config), "task_version": task.version, "source_versions": task.source_versions}
    left_out = ("output_dir", "batch_size", "data", "method", "width", "trace", "workers")
    values = () if config.search in NEED_SCORER or config.search == "all" else ("value_model", "reward_model")
    return {name: value for name, value in asked.items() if name not in (*left_out, *values)}


def _drawn(
    responses: Path,
    config: EvaluateConfig,
    task: Task,
    problems: Sequence[Problem],
    search: Search,
    models: Models,
    asked: dict[str, Any],
) -> list[Episode]:
    """The graded responses, drawn or, as far as an earlier run got, read back."""
    work = WorkFolder(responses, asked, work_units(problems, search.samples))
    if work.done() < len(work.units):
        models.check()
        work.finish(
            lambda unit, advance: sample_and_grade(task, unit, models.engine, search.samples, search.params, advance),
            f"{config.method} {search.name}".strip(),
            search.samples,
        )
    return list(load_episodes(responses))
