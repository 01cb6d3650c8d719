"""Evaluate: how often is a policy right, how sure is that, and what did it cost?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stepcredit.engines.engine import Engine, SamplingParams
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.evaluation.breakdown import at_k, group_rows, is_strictly_right, rate, reading_rows
from stepcredit.evaluation.conversing import conversed
from stepcredit.evaluation.searching import CHOOSERS, NEED_SCORER, Bench, Strategy, trace_of
from stepcredit.evaluation.value_quality import Scored, credit_examples, score, value_rows
from stepcredit.files import write_json, write_lines
from stepcredit.metrics.samples import powers_of_two
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.models.states import ValueStates, value_states
from stepcredit.progress import track_units
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.store import SAMPLING, add_rows, read_rows
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.single_turn import sample_and_grade, sampling
from stepcredit.rollouts.task_settings import TaskChoice
from stepcredit.rollouts.work_units import resume, units_there, work_units
from stepcredit.search.beam import BeamParams
from stepcredit.search.scorers import Scorer, ValueScorer, reward_model_scorer
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict

SEARCHES = ["greedy", "sample", *CHOOSERS, "beam", "random", "all"]


@dataclass(kw_only=True)
class EvaluateConfig(TaskChoice):
    """Score a policy on a task's problems, with a standard error and the tokens it cost: strict and lenient accuracy,
    pass@k and maj@k of several samples, by level and type; with a value model, also what that knows about the
    responses. Every response is kept for reading. Run it again to go on where it stopped."""

    model: str = field(metadata={"help": "The policy: a folder, a .gguf file or a name on the hub."})
    output_dir: str = field(metadata={"help": "The folder of result files and of responses/, every response."})
    value_model: str | None = field(default=None, metadata={"help": "A value model to be judged (--search sample)."})
    method: str = field(default="", metadata={"help": "What the rows call the policy; default: its folder."})
    split: str = field(default="test", metadata={"help": "Which of the task's splits."})
    limit: int | None = field(default=None, metadata={"help": "How many problems; default: the whole split."})
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
        metadata={"help": "A sequence classifier with one label, to score with in place of --value_model."},
    )
    trace: str | None = field(
        default=None, metadata={"help": "A page that draws the beam's tree of the first problem (--search beam)."}
    )
    num_generations: int = field(default=1, metadata={"help": "Responses a problem with --search sample (K)."})
    seed: int = field(default=0, metadata={"help": "Seed of generated problems and of the sampling noise."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus filter; 1 is off."})
    top_k: int = field(default=0, metadata={"help": "Top-k filter; 0 is off."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Length limit; default: the task's."})
    batch_size: int = field(default=64, metadata={"help": "Responses drawn at a time."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code a model repository brings."})


def evaluate(config: EvaluateConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Writes the result files of one evaluation; returns its rows of `results.json` and of `groups.json`.

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
    models = _Models(config)
    _ = models.tokenizer  # a policy that is not there is found before anything is written
    groups: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with watch.phase("generate"):
        for search, episodes in _searched(config, task, problems, models, responses):
            rows.append(result_row(episodes, problems, search, common))
            groups += group_rows(episodes, problems, {**common, **_named(search)})
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
    write_json(out / "run.json", {"command": "evaluate", **vars(config), **versions()})
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
    config: EvaluateConfig, task: Task, problems: Sequence[Problem], models: _Models, responses: Path
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


class _Models:
    """What an evaluation works with, each loaded once, when it is first asked for."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._trust = config.trust_remote_code

    @cached_property
    def tokenizer(self) -> Any:
        """Of the policy."""
        return self._config.load_tokenizer(self._config.model, self._trust)

    @cached_property
    def engine(self) -> Engine:
        """Of the policy."""
        config = self._config
        return config.load_engine(config.model, config.batch_size, self._trust, self.tokenizer)

    @cached_property
    def value_model(self) -> Any:
        """V, where there is one."""
        value = str(self._config.value_model)
        return placed(load_value_model(value, trust_remote_code=self._trust, tokenizer=self.tokenizer))

    def check(self) -> None:
        """Load all that was named, before anything is drawn or written.

        Raises:
            InputError: one does not load, or they do not fit.
        """
        _ = self.engine
        if self._config.value_model is not None:
            _ = self.value_model

    @cached_property
    def scorer(self) -> Scorer | None:
        """Who says how good a response or a step is; None where nobody was named."""
        config = self._config
        if config.reward_model is not None:
            reward_model = load_reward_model(
                config.reward_model, trust_remote_code=self._trust, tokenizer=self.tokenizer
            )
            return reward_model_scorer(placed(reward_model), config.batch_size)
        return None if config.value_model is None else ValueScorer(self.value_model)


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
    models: _Models,
    asked: dict[str, Any],
) -> list[Episode]:
    """The graded responses, drawn or, as far as an earlier run got, read back."""
    units = work_units(problems, search.samples)
    if units_there(responses, asked) < len(units):
        models.check()
        done = resume(responses, asked)
        label = f"{config.method} {search.name}".strip()
        for unit, advance in track_units(units[done:], label, search.samples):
            drawn = sample_and_grade(task, unit, models.engine, search.samples, search.params, advance)
            append_episodes(responses, drawn)
    return list(load_episodes(responses))


def write_value_files(
    out: Path, scored: Sequence[Scored], task: Task, problems: Sequence[Problem], common: dict[str, Any]
) -> list[dict[str, Any]]:
    """`value.json` and `credit.json` of scored responses; returns the value rows."""
    rows = value_rows(scored, task, problems, common)
    add_rows(out / "value.json", rows)
    write_json(out / "credit.json", credit_examples(scored, task, problems))
    return rows


@dataclass(frozen=True)
class Search:
    """How responses to a problem are made: by which strategy, how many, and with which sampling."""

    name: str
    samples: int
    params: SamplingParams


def search_params(config: Any, task: Task) -> Search:
    """The strategy a config asks for."""
    params = sampling(config, task)
    if config.search == "greedy":
        return Search("greedy", 1, replace(params, temperature=0.0, top_p=1.0, top_k=0))
    return Search("sample", config.num_generations, params)


def measure(
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    search: Search,
    common: dict[str, Any],
) -> tuple[dict[str, Any], list[Episode]]:
    """(a row of `results.json`, the graded responses).

    Truncated and undecided responses stay in the denominator as not right, and are counted beside it. The
    standard error is clustered by problem; `accuracy_strict` stands beside where it differs.
    """
    units = work_units(problems, search.samples)
    label = f"{common.get('method', '')} {search.name}".strip()
    episodes = [
        episode
        for unit, advance in track_units(units, label, search.samples)
        for episode in sample_and_grade(task, unit, engine, search.samples, search.params, advance)
    ]
    return result_row(episodes, problems, search, common), episodes


def result_row(
    episodes: Sequence[Episode], problems: Sequence[Problem], search: Search, common: dict[str, Any]
) -> dict[str, Any]:
    """A row of `results.json`; see `measure`. `at_k` is there where there are several samples."""
    accuracy, stderr = rate(episodes)
    strict, strict_stderr = rate(episodes, is_strictly_right)
    told_apart = {"accuracy_strict": strict, "stderr_strict": strict_stderr} if strict != accuracy else {}
    return {
        **common,
        **_named(search),
        "n": len(problems),
        "accuracy": accuracy,
        "stderr": stderr,
        **told_apart,
        **({"at_k": at_k(episodes, search.samples)} if search.name == "sample" and search.samples > 1 else {}),
        "truncated": sum(e.truncated for e in episodes),
        "undecided": sum(e.verdict is Verdict.UNDECIDED for e in episodes),
        "tokens_generated": sum(_generated(e) for e in episodes),
        "tokens_scored": sum(e.metadata.get("tokens_scored", 0) for e in episodes),
    }


def _named(search: Search) -> dict[str, Any]:
    """What a row says of its search: name, width, and the settings that are not plain sampling's; greedy has none."""
    named, params = {"search": search.name, "width": search.samples}, search.params
    if params.temperature == 0:
        return named
    told = {name: getattr(params, name) for name in SAMPLING}
    return {**named, **{name: setting for name, setting in told.items() if setting != getattr(SamplingParams, name)}}


def _generated(episode: Episode) -> int:
    """Tokens drawn for an episode: all that its search drew, where it is what a search chose."""
    alone = 0 if episode.tokens is None else int(episode.tokens.action_mask.sum())
    return int(episode.metadata.get("tokens_generated", alone))
