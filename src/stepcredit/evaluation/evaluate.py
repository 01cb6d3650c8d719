"""Evaluate: how often is a policy right, how sure is that, and what did it cost?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from stepcredit.errors import InputError
from stepcredit.evaluation.breakdown import group_rows, reading_rows
from stepcredit.evaluation.conversation_search import ConversationSearch
from stepcredit.evaluation.response_search import ResponseSearch, search_rule, step_rule
from stepcredit.evaluation.rows import (
    SAMPLING,
    changed_from_default,
    named,
    result_row,
    settings_told,
    write_value_files,
)
from stepcredit.evaluation.value_quality import score
from stepcredit.files import locked, write_json, write_lines
from stepcredit.flags import flag
from stepcredit.models.states import value_states
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.row_files import add_rows, read_rows
from stepcredit.results.schema import AccuracyRow, GroupRow
from stepcredit.rollouts.models import Models
from stepcredit.rollouts.multi_turn import multi_turn_rollouts
from stepcredit.rollouts.single_turn import sampling
from stepcredit.rollouts.task_settings import SamplingSettings, TaskSettings
from stepcredit.searching.spec import SEARCHES, SearchSpec, requested_searches
from stepcredit.settings import Limits
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem, Task
from stepcredit.training.methods import legend


@dataclass(kw_only=True)
class EvaluateConfig(SamplingSettings, TaskSettings):
    """Score a policy on a task's problems, with a standard error and the tokens it cost: strict and lenient accuracy,
    pass@k and maj@k of several samples, by level and type; with a value model, also what that knows about the
    responses. Every response is kept for reading. Run it again to go on where it stopped."""

    model: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("model"))
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "Every response is kept in responses/.")
    )
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
            "choices": [*SEARCHES, "all"],
        },
    )
    width: Annotated[int, Limits(at_least=1)] = field(
        default=4, metadata={"help": "Responses (K) or beams (B) of a search."}
    )
    continuations: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={"help": "Steps drawn of each beam; default: --width. With --width 1, best of so many a step."},
    )
    max_step_tokens: Annotated[int | None, Limits(at_least=1)] = field(
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
    budget: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata={"help": "Tokens generated and scored, at most so many a problem."}
    )
    reward_model: str | None = field(
        default=None,
        metadata=flag("reward_model"),
    )
    trace: str | None = field(
        default=None, metadata={"help": "A page that draws the beam's tree of the first problem (--search beam)."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=1, metadata=flag("num_generations", "With --search sample.")
    )


def evaluate(config: EvaluateConfig, models: Models | None = None) -> tuple[list[AccuracyRow], list[GroupRow]]:
    """Writes the result files of one evaluation; returns its rows of `results.json` and of `groups.json`.

    1. Read the settings, and load what they name; whatever is wrong is found before anything is drawn or written.
    2. One search after the other: its episodes, drawn or read back, as lines for reading, a row, and rows by group.
    3. Judge the value model on the sampled episodes, where there is one.

    Args:
        config: what to evaluate, and how.
        models: in place of those that the config names.

    Raises:
        InputError: an unknown task, split or search, or a model that does not load; the folder is being written.
    """
    task = config.load_task()  # 1.
    specs = _searches(config, task)
    problems = list(task.problems(config.split, config.limit, config.seed))
    models, common = models or Models(config), _common(config, task)
    out, watch = Path(config.output_dir), Stopwatch()
    rows: list[AccuracyRow] = []
    groups: list[GroupRow] = []
    with locked(out, "stepcredit evaluate"), _search(config, task, problems, models, specs) as search:
        read_rows(out / "results.json", AccuracyRow)  # damaged ones are found before anything is drawn
        with watch.phase("generate"):
            for spec in specs:  # 2.
                episodes = search.episodes(spec)
                write_lines(search.folder.with_name(f"{search.folder.name}-{spec.label}.jsonl"), reading_rows(episodes))
                about = {**common, **settings_told(config, spec.name), **named(spec)}
                rows.append(result_row(episodes, problems, spec, about))
                groups += group_rows(episodes, problems, about)
        if config.trace is not None and isinstance(search, ResponseSearch):
            from stepcredit.report.trace import write_trace  # draws with matplotlib, which few evaluations need

            write_trace(Path(config.trace), search.trace(problems[0], specs[0]))
        add_rows(out / "results.json", rows)
        add_rows(out / "groups.json", groups)
        if config.search == "all" and not isinstance(task, InteractiveTask):
            from stepcredit.report.cost import write_cost  # draws with matplotlib as well

            write_cost(out / "cost.svg", read_rows(out / "results.json", AccuracyRow))
        if config.value_model is not None and config.search in ("greedy", "sample"):  # 3.
            rule = step_rule(task, value_states(models.value_model))
            scored = score(models.value_model, models.tokenizer, episodes, rule)
            write_value_files(out, scored, task, problems, about)
        write_json(out / "timings.json", watch.phases)
        methods = legend(row.method for row in read_rows(out / "results.json", AccuracyRow))
        write_json(out / "run.json", {"command": "evaluate", **vars(config), "methods": methods, **versions()})
    return rows, groups


def _searches(config: EvaluateConfig, task: Task) -> list[SearchSpec]:
    """The searches that a config asks for."""
    if config.trace is not None and config.search != "beam":
        raise InputError("only a beam has a tree to draw: --search beam", "trace")
    spec = SearchSpec(
        "sample",
        config.width,
        sampling(config, task),
        config.continuations,
        config.max_step_tokens,
        config.choose,
        config.budget,
    )
    has_scorer = config.value_model is not None or config.reward_model is not None
    is_interactive = isinstance(task, InteractiveTask)
    return requested_searches(config.search, spec, config.num_generations, has_scorer, is_interactive)


def _common(config: EvaluateConfig, task: Task) -> dict[str, Any]:
    """What all rows say."""
    return {
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


@contextmanager
def _search(
    config: EvaluateConfig, task: Task, problems: list[Problem], models: Models, specs: list[SearchSpec]
) -> Iterator[ResponseSearch | ConversationSearch]:
    """What the searches are done with; the models that are needed in any case are loaded.

    The folders are named by all that tells evaluations into one `output_dir` apart; the settings are all that the
    episodes depend on, without the widths, which are in the names too.
    """
    needs_scorer = any(spec.needs_scorer for spec in specs)
    settings = {**asdict(config), "task_version": task.version, "source_versions": task.source_versions}
    left_out = {"output_dir", "batch_size", "data", "method", "width", "trace", "workers"}
    left_out |= set() if needs_scorer else {"value_model", "reward_model"}
    settings = {name: value for name, value in settings.items() if name not in left_out}
    name = f"{config.method or 'policy'}-{config.split}-{config.search}-seed{config.seed}"
    if config.search != "greedy":
        name += "".join(f"-{key}{value:g}" for key, value in changed_from_default(config, SAMPLING).items())
    folder = Path(config.output_dir) / "responses" / name
    _ = models.tokenizer  # a policy that is not there is found first
    scorer = models.scorer if needs_scorer else None
    if scorer is None and config.value_model is not None:
        _ = models.value_model
    if isinstance(task, InteractiveTask):
        with multi_turn_rollouts(task, models.engine, config.max_turns, config.workers, scorer) as rollouts:
            yield ConversationSearch(problems, rollouts, folder, settings)
    else:
        rule = search_rule(task, scorer, config.max_step_tokens)
        pool = 0 if config.search in ("greedy", "sample") else config.width
        yield ResponseSearch(task, problems, lambda: models.engine, scorer, rule, folder, settings, pool)
