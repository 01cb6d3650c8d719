import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from doubles.results import LEGEND, accuracies, values
from stepcredit.report.formatting import block_label, count_range, decimal, share
from stepcredit.report.scores import aggregate
from stepcredit.report.tables import group_tables, not_right, results_table, samples_table, spread_note, value_table
from stepcredit.results.schema import AtK, GroupRow


def shown(table, width=160):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def row(**fields):
    return {"task": "sums", "split": "test", "method": "oreo", "search": "greedy", "n": 1000} | fields


def cells(text, start):
    line = next(line for line in text.splitlines() if start in line)
    return re.split(r"\s{2,}", line.strip())


def test_results_table_writes_percent_over_seeds():
    rows = [
        row(seed=0, accuracy=0.92, tokens_generated=12000),
        row(seed=1, accuracy=0.94, tokens_generated=13000),
    ]
    text = shown(results_table(accuracies(rows), LEGEND))
    assert cells(text, "OREO") == ["OREO", "greedy", "–", "1,000", "2", "93.0 ± 1.0", "12", "–"]
    assert "sums (test)" in text
    assert "mean over seeds ± its standard error" in text


def test_the_tables_are_whole_in_a_terminal_of_eighty_columns():
    rows = [row(method="rft", search="vote", width=8, accuracy=0.5, tokens_generated=2**21, tokens_scored=2**22)]
    text = shown(results_table(accuracies(rows), LEGEND), width=80)
    assert {"rejection", "sampling", "majority", "vote", "2,097", "4,194"} <= set(text.split())
    fields = {"task": "sums", "method": "oreo", "metric": "auc_within_prompt", "at": 1.0, "n": 1234, "seed": 0}
    text = shown(value_table(values([fields | {"estimate": 0.86, "low": 0.8, "high": 0.91}]), LEGEND), width=80)
    assert {"OREO", "Right", "problem", "0.86", "0.91", "1,234", "seeds"} <= set(text.split())


def test_a_column_for_the_task_when_there_are_several():
    text = shown(results_table(accuracies([row(accuracy=0.5), row(task="products", accuracy=0.25)]), LEGEND))
    assert cells(text, "products")[:3] == ["products (test)", "OREO", "greedy"]


def test_names_are_no_markup():
    assert "[bold]oreo[/bold]" in shown(
        results_table(accuracies([row(method="[bold]oreo[/bold]", accuracy=0.5)]), LEGEND)
    )


def test_control_characters_do_not_reach_the_terminal():
    text = shown(results_table(accuracies([row(method="a\x1b[31m\nb", accuracy=0.5, task="t\x1b[2J")]), LEGEND))
    assert "\x1b" not in text
    assert "a\ufffd[31m\ufffdb" in text


def test_value_table_shows_interval_and_chance():
    fields = {"task": "sums", "method": "oreo", "metric": "auc_within_prompt", "at": 0.5, "n": 40}
    text = shown(value_table(values([fields | {"estimate": 0.86, "low": 0.8, "high": 0.91}]), LEGEND))
    assert cells(text, "OREO")[2:] == ["halfway", "0.86", "0.80 to 0.91", "0.50", "40", "1"]


def test_how_numbers_are_written():
    (score,) = aggregate(accuracies([row(accuracy=1.0)]))
    assert score.percent == "100.0 ± 0.0"
    assert [decimal(x) for x in (None, -0.001, -0.31, 1.0)] == ["–", "0.00", "−0.31", "1.00"]
    assert [share(x) for x in (None, 0.0125)] == ["–", "1.2"]
    assert [count_range(x) for x in (None, (1000, 1000), (900, 1000))] == ["–", "1,000", "900–1,000"]
    assert (block_label("sums", ""), block_label("sums", "test")) == ("sums", "sums (test)")


def test_the_note_says_what_the_spread_is():
    one = aggregate(accuracies([row(accuracy=0.5)]))
    two = aggregate(accuracies([row(method="sft", accuracy=0.5, seed=seed) for seed in (0, 1)]))
    assert "over problems" in spread_note(one)
    assert "over seeds" in spread_note(two)
    shared = [row(method="sft", accuracy=0.5, seed=seed, stderr_problems=0.1) for seed in (0, 1)]
    assert "over seeds and problems" in spread_note(aggregate(accuracies(shared)))
    assert "otherwise" in spread_note([*one, *two])
    assert "95%" not in spread_note([*one, *two])


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_no_spread_of_few_problems_is_no_certainty(accuracy):
    """The rule of three: 20 of 20 leave up to 3 / 20 of others, at 95%."""
    rows = [row(accuracy=accuracy, n=20), row(method="sft", accuracy=0.5, n=10)]
    note = spread_note(aggregate(accuracies(rows)))
    assert note.endswith("; ± 0.0 is no certainty: with 20 problems all right or all wrong, up to 15.0 points (95%)")


def test_what_counts_as_not_right_is_told():
    rows = accuracies(
        [row(accuracy=0.5, truncated=3, undecided=0), row(accuracy=0.5, seed=1, truncated=1, undecided=2)]
    )
    assert not_right(rows) == (
        "Counted as not right at most per row: 3 cut at the length limit (--max_new_tokens) and 2 undecided."
    )
    assert not_right(rows[:1]) == "Counted as not right: 3 cut at the length limit (--max_new_tokens)."
    assert not_right(accuracies([row(accuracy=0.5, truncated=0)])) == ""


def test_groups_name_their_search_where_there_are_several():
    def group(**fields):
        return GroupRow(**{"task": "t", "method": "m", "by": "level", "n": 4, "accuracy": 0.5, "stderr": 0.25} | fields)

    (one,) = group_tables([group(group=1, accuracy_strict=0.5), group(group=2, accuracy_strict=0.5, stderr=None)])
    assert cells(shown(one), "2 ") == ["2", "4", "50.0 ± –"]
    rows = [group(group="[b]\x1b", search=search, width=2, accuracy_strict=0.25) for search in ("beam", "vote")]
    text = shown(*group_tables(rows))
    assert cells(text, "vote") == ["[b]\ufffd", "majority vote, 2", "4", "50.0 ± 25.0", "25.0 ± –"]


def test_what_several_samples_are_worth():
    at_k = [AtK(k=k, pass_=0.25 * k, pass_stderr=0.125, majority=m) for k, m in ((1, 0.25), (2, 0.5))]
    (plain,) = accuracies([row(accuracy=0.25)])
    assert samples_table(plain) is None
    assert cells(shown(samples_table(replace(plain, at_k=at_k))), "2 ") == ["2", "50.0 ± 12.5", "50.0 ± –"]
    alone = [replace(at, majority=None) for at in at_k]
    assert "maj@k" not in shown(samples_table(replace(plain, at_k=alone)))
