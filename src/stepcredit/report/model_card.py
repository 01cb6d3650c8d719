"""Model card of a trained policy and value model: how to load them, results with standard errors, credit, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from stepcredit.errors import InputError
from stepcredit.files import written_whole
from stepcredit.report.formatting import block_label, count, count_range, interval
from stepcredit.report.legend import Legend
from stepcredit.report.scores import Score, aggregate
from stepcredit.results.row_files import read_object, read_rows
from stepcredit.results.schema import AccuracyRow, ValueRow
from stepcredit.version import __version__

CARD = "README.md"
_SHOWN = (
    *("learning_rate", "value_learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "level", "beta", "kl_coef", "gamma", "lam", "expectile", "train_layers", "seed"),
)
"""Settings of training in the card, in this order; all of them are in training_args.json."""
_METRICS = {
    "auc_within_prompt": "right responses ranked above wrong ones of the same prompt (AUC)",
    "first_wrong_step": "largest drop of V at the first wrong step",
    "first_wrong_step_chance": "a random step, for comparison",
}


def write_model_card(
    folder: Path, name: str, results: Path | None = None, base_model: str | None = None, *, has_page: bool = False
) -> Path:
    """Writes the model card of a finished training run, atomically, and returns its path.

    Args:
        folder: output folder of `stepcredit train`.
        name: name on the hub.
        results: folder with `results.json` and, optionally, `value.json`; None: no results.
        base_model: name of the initial policy on the hub; by default the `--model` of the run, unless it is a folder.
        has_page: whether a credit page is beside the card.

    Raises:
        InputError: the folder holds no finished run, the results are missing, damaged or of several
            methods, or a file is malformed.
    """
    run = read_object(folder / "run.json")
    if run.get("command") != "train" or not (folder / "policy").is_dir():
        raise InputError("holds no finished training run (no run.json of stepcredit train)", str(folder))
    scores, values = _results(results)
    base = base_model or (str(run["model"]) if _is_hub_name(str(run.get("model", ""))) else None)
    method = str(run.get("method", ""))
    data = ModelCardData(
        model_name=name,
        base_model=base,
        library_name="transformers",
        tags=["stepcredit", "offline-rl", "reasoning", method],
        eval_results=[_eval_result(score) for score in scores] or None,
    )
    label = Legend(run.get("methods")).label(method).upper()
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        f"Trained with {label} by stepcredit {run.get('stepcredit', __version__)}{_from(base)}{_on(run.get('data'))}.",
        _usage(name, folder / "value"),
        *_results_table(scores),
        *_credit(values, has_page=has_page),
        _settings(read_object(folder / "training_args.json")),
    ]
    card = folder / CARD
    with written_whole(card) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return card


def _results(folder: Path | None) -> tuple[list[Score], list[ValueRow]]:
    """Returns accuracies over seeds, and the rows on V."""
    if folder is None:
        return [], []
    rows = read_rows(folder / "results.json", AccuracyRow)
    if not rows:
        raise InputError("holds no results.json with rows; run stepcredit evaluate into it", str(folder))
    if len(methods := sorted({row.method for row in rows})) > 1:
        raise InputError(
            f"holds results of several methods ({', '.join(methods)}); evaluate this policy alone", str(folder)
        )
    scores = aggregate(rows, Legend.of(folder), str(folder / "results.json"))
    return scores, read_rows(folder / "value.json", ValueRow)


def _is_hub_name(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/")) and not Path(model).exists()


def _from(base: str | None) -> str:
    return "" if base is None else f" from [{base}](https://huggingface.co/{base})"


def _on(data: object) -> str:
    if not isinstance(data, dict) or "episodes" not in data:
        return ""
    return f" on {count(data['episodes'])} scored responses"


def _eval_result(score: Score) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=score.task,
        dataset_name=score.task,
        dataset_split=score.split or None,
        metric_type="accuracy",
        metric_name=f"accuracy, {_search(score)}",
        metric_value=round(score.accuracy, 4),
    )


def _search(score: Score) -> str:
    return score.search_label + ("" if score.width in (None, 1) else f", width {score.width}")


def _usage(name: str, value: Path) -> str:
    """Returns how to load the models in plain transformers; V is the one label, or the mean of the bins."""
    classes, lines = "AutoModelForCausalLM, AutoTokenizer", ""
    if value.is_dir():
        classes = "AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer"
        is_binned = "value_bins" in read_object(value / "config.json")
        read = "logits.softmax(-1) @ logits.new_tensor(value_model.config.value_bins)" if is_binned else "logits[:, 0]"
        lines = f"""
value_model = AutoModelForTokenClassification.from_pretrained("{name}", subfolder="value")
logits = value_model(**tokenizer("1 + 1 = 2", return_tensors="pt")).logits[0]
value = {read}  # V after each token"""
    return f"""## Use

```python
from transformers import {classes}

tokenizer = AutoTokenizer.from_pretrained("{name}", subfolder="policy")
policy = AutoModelForCausalLM.from_pretrained("{name}", subfolder="policy"){lines}
```"""


def _results_table(scores: Sequence[Score]) -> list[str]:
    if not scores:
        return []
    lines = [
        f"| {block_label(score.task, score.split)} | {_search(score)} | {count_range(score.problems)} | "
        f"{score.seeds} | {score.percent} |"
        for score in scores
    ]
    table = ["| problems | search | n | seeds | accuracy % ± standard error |", "| --- | --- | ---: | ---: | ---: |"]
    return ["## Results", "\n".join([*table, *lines])]


def _credit(values: Sequence[ValueRow], *, has_page: bool) -> list[str]:
    told = [row for row in values if row.metric in _METRICS]
    if not told and not has_page:
        return []
    lines = [
        f"| {_METRICS[row.metric]}{'' if row.at is None else f', after {row.at:.0%} of the steps'} | "
        f"{row.estimate:.2f} | {interval(row.low, row.high)} |"
        for row in told
    ]
    table = ["| V | estimate | 95% interval |", "| --- | ---: | ---: |", *lines] if told else []
    page = ["[credit.html](credit.html) shows V on every token of responses; download and open it."] if has_page else []
    return ["## Credit", *(["\n".join(table)] if table else []), *page]


def _settings(args: dict[str, object]) -> str:
    unused = {"num_train_epochs"} if args.get("max_steps", -1) != -1 else {"max_steps"}
    lines = [f"| {name} | {args[name]} |" for name in _SHOWN if args.get(name) is not None and name not in unused]
    return "\n".join(["## Training", "", "| setting | |", "| --- | --- |", *lines])
