"""Evaluation of a policy: accuracy, standard error and token cost."""

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
    setting_columns,
    write_value_files,
)
from stepcredit.evaluation.value_quality import score
from stepcredit.files import locked, write_json, write_lines
from stepcredit.flags import flag
from stepcredit.hashes import content_of
from stepcredit.models.states import value_states
from stepcredit.results.provenance import Stopwatch, versions
from stepcredit.results.row_files import add_rows, read_rows
from stepcredit.results.schema import AccuracyRow, GroupRow
from stepcredit.rollouts.models import Models
from stepcredit.rollouts.multi_turn import multi_turn_rollouts
from stepcredit.rollouts.single_turn import sampling
from stepcredit.rollouts.task_settings import HOW_ASKED, SamplingSettings, TaskSettings
from stepcredit.rollouts.work_units import CONTENT
from stepcredit.searching.spec import SEARCHES, SearchSpec, requested_searches
from stepcredit.settings import Limits
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.task import Problem, Task
from stepcredit.training.methods import legend


@dataclass(kw_only=True)
class EvaluateConfig(SamplingSettings, TaskSettings):
    """Evaluate a policy on a task: strict and lenient accuracy with standard errors, token cost, pass@k and maj@k, by
    level and type; with a value model, also the quality of its values. Every response is stored. Run the command again
    to resume."""

    model: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("model"))
    output_dir: Annotated[str, Limits(not_empty=True)] = field(
        metadata=flag("output_dir", "Responses are stored in responses/.")
    )
    value_model: str | None = field(default=None, metadata=flag("value_model", "Evaluated with --search sample."))
    value_base_url: Annotated[list[str] | None, Limits(not_empty=True)] = field(
        default=None, metadata=flag("value_base_url", "For the searches.")
    )
    method: str = field(default="", metadata={"help": "Name of the policy in the rows; default: its folder."})
    split: str = field(default="test", metadata=flag("split"))
    search: str = field(
        default="greedy",
        metadata={
            "help": "How a response is generated: greedy; sample (--num_generations per prompt, all counted); among "
            "--width samples the most frequent answer (vote), the answer of largest total value (weighted-vote), or "
            "the response of highest value (best-of); step beam search with --width beams (beam); or all of these at "
            "every power of two up to --width (all). For interactive tasks: greedy, sample, the reply of highest value "
            "among --width per turn (best-of), a random one of them (random), or all of these up to --width (all).",
            "choices": [*SEARCHES, "all"],
        },
    )
    width: Annotated[int, Limits(at_least=1)] = field(
        default=4, metadata={"help": "Responses (K) or beams (B) of a search."}
    )
    continuations: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={"help": "Steps sampled per beam; default: --width. With --width 1: best of this many per step."},
    )
    max_step_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata={
            "help": "Length limit of a step in beam search; default: 256, or that of a value model trained at step "
            "level, which it must equal."
        },
    )
    choose: str = field(
        default="value",
        metadata={
            "help": "Final choice of beam search: by value, or by a value-weighted vote.",
            "choices": ["value", "vote"],
        },
    )
    budget: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata={"help": "Maximum number of tokens generated and scored per problem."}
    )
    reward_model: str | None = field(
        default=None,
        metadata=flag("reward_model"),
    )
    trace: str | None = field(
        default=None, metadata={"help": "HTML page of the first problem's search tree (--search beam)."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=1, metadata=flag("num_generations", "With --search sample.")
    )


def evaluate(config: EvaluateConfig, models: Models | None = None) -> tuple[list[AccuracyRow], list[GroupRow]]:
    """Writes the result files of one evaluation; returns its rows of `results.json` and of `groups.json`.

    1. Load the task and the models; errors surface before anything is generated or written.
    2. For each search, generate or load the episodes, and write the responses, a row, and rows by group.
    3. Evaluate the value model, if any, on the sampled episodes.

    Args:
        config: the settings.
        models: models to use instead of those named in the config.

    Raises:
        InputError: unknown task, split or search, a model that cannot be loaded, or the folder is in use.
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
                about = {**common, **setting_columns(config, spec.name), **named(spec)}
                rows.append(result_row(episodes, problems, spec, about))
                groups += group_rows(episodes, problems, about)
        if config.trace is not None and isinstance(search, ResponseSearch):
            from stepcredit.report.trace import write_trace  # imports matplotlib, which few evaluations need

            write_trace(Path(config.trace), search.trace(problems[0], specs[0]))
        add_rows(out / "results.json", rows)
        add_rows(out / "groups.json", groups)
        if config.search == "all" and not isinstance(task, InteractiveTask):
            from stepcredit.report.cost import write_cost  # imports matplotlib too

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
    """Returns the searches of a config."""
    if config.trace is not None and config.search != "beam":
        raise InputError("only beam search has a tree; choose --search beam", "trace")
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
    """Returns the columns that all rows share."""
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
    """Yields the runner of the searches, after loading the models that are always needed.

    Folder names contain all that distinguishes evaluations in one `output_dir`. The settings are all that determine the
    episodes, except the widths, which are in the folder names.
    """
    needs_scorer = any(spec.needs_scorer for spec in specs)
    settings = {**asdict(config), "task_version": task.version, "source_versions": task.source_versions}
    settings |= {CONTENT: content_of(config.model)}
    if needs_scorer:
        settings |= {"content of the scorer": content_of(config.reward_model or config.value_model)}
    left_out = {"output_dir", "batch_size", "data", "method", "width", "trace", "workers", "value_base_url", *HOW_ASKED}
    left_out |= set() if needs_scorer else {"value_model", "reward_model"}
    settings = {name: value for name, value in settings.items() if name not in left_out}
    name = f"{config.method or 'policy'}-{config.split}-{config.search}-seed{config.seed}"
    if config.search != "greedy":
        name += "".join(f"-{key}{value:g}" for key, value in changed_from_default(config, SAMPLING).items())
    folder = Path(config.output_dir) / "responses" / name
    _ = models.tokenizer  # reports a missing policy first
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
