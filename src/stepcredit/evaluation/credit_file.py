"""The file of credit: episodes and models by name → `credit.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, NamedTuple

from stepcredit.episodes.alignment import TokenTexts
from stepcredit.episodes.delimiters import COLLECTED
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.joined import joint_step_rule, load_folders
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import EpisodeStore
from stepcredit.errors import InputError
from stepcredit.evaluation.credit import CreditModels, credit_lines, credit_of, encoded
from stepcredit.files import locked, read_manifest, write_lines
from stepcredit.flags import BY_VERDICT, OF_EPISODES, flag
from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model, placed
from stepcredit.models.states import value_states
from stepcredit.progress import track
from stepcredit.results.credit_lines import CREDIT_FILE, CreditLine, CreditRun, line_of
from stepcredit.results.provenance import versions
from stepcredit.settings import Limits, Settings
from stepcredit.verdict import REWARD_THRESHOLD

CHUNK = 256
"""Episodes scored before their lines are written; sorted by length within."""


@dataclass(kw_only=True)
class CreditConfig(Settings):
    """Show where responses go wrong: V and its change over every token and step, with log-ratios and KL of a policy, as
    a page to look at, credit.html, and as lines to compute with, credit.jsonl."""

    episodes: Annotated[list[str], Limits(not_empty=True)] = field(
        metadata={"help": "Folders of episodes (from stepcredit import or collect)."}
    )
    value_model: Annotated[list[str], Limits(not_empty=True)] = field(
        metadata=flag("value_model", "Several are shown side by side.")
    )
    output_dir: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("output_dir"))
    model: str | None = field(default=None, metadata=flag("model", "With --ref_model: log-ratios and KL."))
    ref_model: str | None = field(default=None, metadata=flag("ref_model"))
    limit: Annotated[int, Limits(at_least=1)] = field(
        default=200, metadata=flag("limit", "All responses of a prompt are shown.")
    )
    step_delimiters: list[str] | None = field(
        default=None, metadata=flag("step_delimiters", OF_EPISODES, default="as V was trained")
    )
    reward_threshold: float = field(default=REWARD_THRESHOLD, metadata=flag("reward_threshold", BY_VERDICT))
    batch_size: Annotated[int, Limits(at_least=1)] = field(default=32, metadata=flag("batch_size"))
    trust_remote_code: bool = field(default=False, metadata=flag("trust_remote_code"))
    overwrite: bool = field(default=False, metadata={"help": f"Replace {CREDIT_FILE} and the page."})


class Counts(NamedTuple):
    """Counts of a file of credit: the responses in it, and why each of the others that were chosen is not."""

    shown: int
    refused: list[str]


def write_credit(config: CreditConfig, models: CreditModels | None = None) -> Counts:
    """Writes `credit.jsonl` (see `CreditConfig` and `stepcredit.results.credit_lines`).

    Args:
        config: the settings.
        models: models to use instead of those named in the config.

    Raises:
        InputError: inconsistent settings, a model or the episodes cannot be loaded, no episode can be encoded, the
            folder holds credit already, or another process writes it.
    """
    if (config.model is None) != (config.ref_model is None):
        missing = "model" if config.model is None else "ref_model"
        raise InputError("log-ratios and KL need --model and --ref_model", missing)
    with locked(Path(config.output_dir), "stepcredit credit"):
        if (file := Path(config.output_dir) / CREDIT_FILE).exists() and not config.overwrite:
            raise InputError("is there already; choose another --output_dir, or --overwrite", str(file))
        return _written(config, models)


def _written(config: CreditConfig, models: CreditModels | None) -> Counts:
    stores = load_folders(config.episodes)
    models = models or _load(config)
    run = CreditRun(
        episodes=config.episodes,
        value_models=list(models.value_models),
        levels=[None if (s := value_states(model)) is None else s.level for model in models.value_models.values()],
        policy=config.model,
        ref_model=config.ref_model,
        step_delimiters=list(_rule(config, models).delimiters),
        total=sum(map(len, stores)),
        versions=versions(),
    )
    chosen, refused = _chosen(stores, config.limit), list[str]()
    lines = _lines(track(chosen, "credit", len(chosen), "responses"), models, config, refused)
    write_lines(Path(config.output_dir) / CREDIT_FILE, map(line_of, chain([run], lines)))
    return Counts(len(chosen) - len(refused), refused)


def _lines(
    chosen: Iterable[tuple[str, Episode]], models: CreditModels, config: CreditConfig, refused: list[str]
) -> Iterator[CreditLine]:
    """Yields the lines of the episodes; adds what cannot be encoded to `refused`.

    Raises:
        InputError: no episode can be encoded.
    """
    rule, texts, number, rows = _rule(config, models), TokenTexts(models.tokenizer), 0, iter(chosen)
    while chunk := list(islice(rows, CHUNK)):
        fit = []
        for source, episode in chunk:
            try:
                fit.append((source, episode, encoded(episode, models.tokenizer, rule, texts)))
            except InputError as error:
                refused.append(f"prompt {episode.prompt_id}, sample {episode.sample}: {error}")
        credit = credit_of([trajectory for _, _, trajectory in fit], models, config.batch_size)
        for (source, episode, trajectory), numbers in zip(fit, credit, strict=True):
            yield from credit_lines(
                number, source, episode, trajectory, numbers, models.tokenizer, config.reward_threshold
            )
            number += 1
    if not number:
        raise InputError(f"no response can be encoded; the first: {refused[0]}", "episodes")


def _chosen(stores: Sequence[EpisodeStore], limit: int) -> list[tuple[str, Episode]]:
    """Returns all responses to the first prompts, with the task or folder that each is from."""
    prompts: dict[str, None] = {}
    for store in stores:
        prompts |= dict.fromkeys(store.column("prompt_id"))
    first = set(islice(prompts, limit))
    chosen = []
    for store in stores:
        manifest = store.path / COLLECTED
        source = str(read_manifest(manifest).get("task", "")) if manifest.exists() else ""
        rows = [k for k, prompt_id in enumerate(store.column("prompt_id")) if prompt_id in first]
        chosen += [(source or store.path.name, store[k]) for k in rows]
    return chosen


def _load(config: CreditConfig) -> CreditModels:
    """Loads the models by name."""
    trust = config.trust_remote_code
    tokenizer = load_tokenizer(config.value_model[0], trust_remote_code=trust)
    values = [
        placed(load_value_model(name, trust_remote_code=trust, tokenizer=tokenizer)) for name in config.value_model
    ]
    policies = [
        None if name is None else placed(load_policy(name, trust_remote_code=trust, tokenizer=tokenizer))
        for name in (config.model, config.ref_model)
    ]
    return CreditModels(dict(zip(short_names(config.value_model), values, strict=True)), tokenizer, *policies)


def short_names(names: Sequence[str]) -> list[str]:
    """Returns names of models without the folders that they share at the start and at the end.

    >>> short_names(["runs/a/oreo/value", "runs/a/dqo/value"]), short_names(["out/oreo/value"])
    (['oreo', 'dqo'], ['oreo/value'])

    Raises:
        InputError: a model is given twice.
    """
    if len(set(names)) < len(names):
        raise InputError("is given twice", "value_model")
    if len(names) == 1:
        return ["/".join(Path(names[0]).parts[-2:])]
    parts = [Path(name).parts for name in names]
    same = [len(set(level)) == 1 for level in zip(*parts, strict=False)]
    first = same.index(False) if False in same else len(same)
    ends = [len(set(level)) == 1 for level in zip(*(p[::-1] for p in parts), strict=False)]
    last = ends.index(False) if False in ends else 0
    return ["/".join(p[first : len(p) - last]) or name for p, name in zip(parts, names, strict=True)]


def _rule(config: CreditConfig, models: CreditModels) -> StepRule:
    """Returns the step rule: that of a value model trained at step level, otherwise that of the episodes.

    Raises:
        InputError: `--step_delimiters`, or another value model, has other steps.
    """
    requested = None if config.step_delimiters is None else joint_step_rule(config.step_delimiters, config.episodes)
    rules = {}
    for name, model in models.value_models.items():
        states = value_states(model)
        if states is not None and states.level == "step":
            rules[name] = states.rule
    if not rules:
        return requested or joint_step_rule(None, config.episodes)
    (name, rule), *others = rules.items()
    for other, its in others:
        if its != rule:
            raise InputError(f"was trained on other steps than {name}; show them on two pages", f"value_model {other}")
    if requested is not None and requested.delimiters != rule.delimiters:
        raise InputError(f"{name} was trained on steps that end after {list(rule.delimiters)}", "step_delimiters")
    return rule
