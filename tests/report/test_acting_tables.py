"""The tables of conversations, from rows written by hand."""

from stepcredit.report import replies as room
from stepcredit.report.markdown import split_table
from stepcredit.report.replies import replies, replies_svg, replies_table, temperatures_table


def row(method, split, search, width, seed, accuracy, **more):
    return {
        "task": "alfworld", "method": method, "split": split, "search": search, "width": width, "seed": seed,
        "n": 100, "accuracy": accuracy, "stderr": 0.05, "truncated": 10, "undecided": 0,
        "tokens_generated": 1000, "tokens_scored": 0, **more,
    }  # fmt: skip


ROWS = [
    *(row("sft", split, search, 1, seed, 0.2 + 0.1 * seed)
      for split in ("valid_seen", "valid_unseen") for search in ("greedy", "sample") for seed in (0, 1)),
    *(row("rft", "valid_unseen", "sample", 1, seed, 0.5) for seed in (0, 1)),
    *(row("sft", "valid_unseen", name, k, seed, 0.3 + by * (k - 1) + 0.1 * seed, tokens_scored=3000 if by else 0)
      for name, by in (("best-of", 0.1), ("random", 0.0)) for k in (2, 3) for seed in (0, 1)),
]  # fmt: skip
SAMPLED = [r for r in ROWS if r["search"] != "greedy"]


def test_methods_and_splits_with_one_reply_a_turn():
    lines = split_table(ROWS, ("valid_unseen", "valid_seen"), ("sample", "greedy")).splitlines()
    assert lines[0] == (
        "| method | valid_unseen, sample | valid_unseen, greedy | valid_seen, sample | valid_seen, greedy "
        "| each seed, valid_unseen, sample |"
    )
    assert lines[2] == "| SFT | 25.0 ± 5.0 | 25.0 ± 5.0 | 25.0 ± 5.0 | 25.0 ± 5.0 | 20.0 30.0 |"
    assert lines[3] == "| rejection sampling | 50.0 ± 0.0 | – | – | – | 50.0 50.0 |"
    assert len(lines) == 4, "the rows of K replies a turn are not among them"


def test_best_of_k_beside_any_of_k():
    lines = replies_table(SAMPLED, ("valid_unseen", "valid_seen")).splitlines()
    assert lines[0] == "| policy | K = 1 | K = 2 | K = 3 | tokens written / read, K = 3 |"
    assert lines[2] == "| SFT, valid_unseen, by value | 25.0 ± 5.0 | 45.0 ± 5.0 | 55.0 ± 5.0 | 10 / 30 |"
    assert lines[3] == "| SFT, valid_unseen, at random | 25.0 ± 5.0 | 35.0 ± 5.0 | 35.0 ± 5.0 | 10 / 0 |"
    assert len(lines) == 4, "no lines of a split that was not searched"


def test_the_likeliest_reply_stands_beside_them_where_it_was_played():
    greedy = [r | {"accuracy": 0.4 + 0.1 * r["seed"]} if r["search"] == "greedy" else r for r in ROWS]
    fewer = [r | {"method": "oreo-step"} for r in ROWS if r["method"] == "sft" and r["search"] != "greedy"]
    lines = replies_table([*greedy, *fewer], ("valid_unseen",)).splitlines()
    assert lines[0] == "| policy | greedy | K = 1 | K = 2 | K = 3 | tokens written / read, K = 3 |"
    in_name = {line.split(" | ")[0]: line.split(" | ")[1:3] for line in lines[2:]}
    assert in_name["| SFT, valid_unseen, by value"] == ["45.0 ± 5.0", "25.0 ± 5.0"]
    assert in_name["| SFT, valid_unseen, at random"] == ["45.0 ± 5.0", "25.0 ± 5.0"]
    assert in_name["| OREO (step), valid_unseen, by value"] == ["–", "25.0 ± 5.0"]


def test_the_most_valued_at_every_temperature():
    sft = [r for r in ROWS if (r["method"], r["split"]) == ("sft", "valid_unseen") and r["search"] != "random"]
    cool = [r | {"temperature": 0.25, "accuracy": 0.5} for r in sft if r["width"] < 3]
    both = [*ROWS, *(r | {"method": "oreo-step"} for r in cool), *cool]
    lines = temperatures_table(both, ("valid_unseen",)).splitlines()
    assert lines[0] == "| policy | temperature | K = 1 | K = 2 | K = 3 |"
    assert lines[2:] == [
        "| OREO (step), valid_unseen | 0.25 | 50.0 ± 0.0 | 50.0 ± 0.0 | – |",
        "| SFT, valid_unseen | 0.25 | 50.0 ± 0.0 | 50.0 ± 0.0 | – |",
        "| SFT, valid_unseen | 1 | 25.0 ± 5.0 | 45.0 ± 5.0 | 55.0 ± 5.0 |",
    ]


def test_one_reply_is_that_of_the_seeds_that_tried_several():
    first = [r for r in SAMPLED if r["width"] == 1 or r["seed"] == 0]
    line = replies_table(first, ("valid_unseen",)).splitlines()[2]
    assert line == "| SFT, valid_unseen, by value | 20.0 ± 5.0 | 40.0 ± 5.0 | 50.0 ± 5.0 | 10 / 30 |"


def test_the_picture_has_a_panel_for_each_policy_and_is_the_same_every_time():
    both = [*ROWS, *(r | {"method": "oreo-step"} for r in ROWS if r["method"] == "sft")]
    drawn = replies_svg(both, ("valid_unseen", "valid_seen"))
    assert drawn == replies_svg(both, ("valid_unseen", "valid_seen"))
    for label in ("SFT, valid_unseen", "OREO (step), valid_unseen", "the most valued", "any of them"):
        assert drawn.count(f">{label}<") == 1
    assert "valid_seen" not in drawn, "not searched there"


def test_the_lines_of_the_picture_are_the_rows_of_the_table(monkeypatch):
    drawn_svg, figures = room.drawn_svg, []
    monkeypatch.setattr(room, "drawn_svg", lambda figure, name: figures.append(figure) or drawn_svg(figure, name))
    replies_svg(ROWS, ("valid_unseen",))
    ((axes,),) = [figure.axes for figure in figures]
    drawn = {bars.get_label(): tuple(bars[0].get_xydata().T.round(6).tolist()) for bars in axes.containers}
    assert drawn == {"the most valued": ([1, 2, 3], [25, 45, 55]), "any of them": ([1, 2, 3], [25, 35, 35])}
    (likeliest,) = [line for line in axes.lines if line.get_label() == "greedy, one reply"]
    assert set(likeliest.get_ydata()) == {25.0}


def test_no_random_and_no_sampled_rows():
    (found,) = replies([r for r in ROWS if r["search"] == "best-of"], ("valid_unseen",))
    assert (sorted(found.by_value), found.at_random) == ([2, 3], {})
