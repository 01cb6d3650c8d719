import pytest

from doubles.pages import HOSTILE, UNSEEN, Reader
from stepcredit.errors import InputError
from stepcredit.report.trace import trace_page, write_trace


def node(ident, parent, made_in, value=0.5, state="kept", **fields):
    told = {"text": f"step {ident}\n", "tokens": 8, "merged": 0, "verdict": None, "extracted": None, **fields}
    return {"id": ident, "parent": parent, "round": made_in, "value": value, "state": state, **told}


ROOT = node(0, None, 0, 0.31, "root", text="", tokens=0)


def trace(*nodes, **fields):
    return {
        "task": "arithmetic", "prompt_id": "test-17", "prompt": "digits 7 0 4", "answer": "odd even", "search": "beam",
        "width": 3, "continuations": 3, "tokens_generated": 1120, "tokens_scored": 130, "nodes": list(nodes),
        "chosen": None, "error": None,
    } | fields  # fmt: skip


def small(evil="", **fields):
    """Every state and every verdict, with `evil` in every text."""
    nodes = [
        ROOT,
        node(1, 0, 1, 0.525, text=f"work even 7 odd{evil}\n", merged=2),
        node(2, 0, 1, 0.604, "pruned", text=f"guess odd{evil}\n"),
        node(3, 1, 2, 0.97, "finished", text=f"answer odd{evil}", verdict="right", extracted=f"odd even{evil}"),
        node(4, 1, 2, 0.005, "finished", text=f"answer{evil}", verdict="wrong", extracted=f"odd{evil}"),
        node(5, 1, 2, None, "finished", text=f"an{evil}", verdict="undecided"),
        node(6, 1, 2, 0.3, "truncated", text=f"and so on{evil}"),
    ]
    words = {"task": f"sums{evil}", "prompt_id": f"p{evil}", "answer": f"odd even{evil}", "search": f"beam{evil}"}
    prompt = [{"role": f"user{evil}", "content": f"7 0 4?{evil}"}]
    return trace(*nodes, **words, prompt=prompt, chosen=3, error=f"late{evil}") | fields


def summaries(page):
    """The line of every step."""
    return [" ".join("".join(Reader.of(p.split("</summary>")[0]).words).split()) for p in page.split("<summary>")[1:]]


def test_the_chosen_way_comes_first_and_then_the_highest_v():
    assert summaries(trace_page(small())) == [
        "V 0.31 · the problem alone",
        "V 0.53 +0.22 · kept · 3 times work even 7 odd",
        "V 0.97 +0.44 · finished · right ★ answer odd",
        "V 0.30 −0.23 · truncated and so on",
        "V 0.01 −0.52 · finished · wrong answer",
        "V – · finished · undecided an",
        "V 0.60 +0.29 · pruned guess odd",
    ]


def test_steps_stand_inside_the_step_before_and_the_way_to_the_chosen_one_is_open():
    page = trace_page(small())
    depth, depths = 0, []
    for tag in page.replace("</details>", "<details /").split("<details ")[1:]:
        depth += -1 if tag.startswith("/") else 1
        depths.append(depth)
    assert depths == [1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 1, 2, 1, 0]
    assert page.count(' chosen" open>') == 3
    assert page.count(" open>") == 3


def test_the_header_tells_what_was_searched_and_chosen():
    text = " ".join("".join(Reader.of(trace_page(small(search="beam"))).words).split())
    for told in ("step beam of width 3 on sums", "Chosen: odd even, right, at V 0.97", "The search failed: late",
                 "1,120 tokens generated, 130 scored"):  # fmt: skip
        assert told in text
    for page in (trace_page(trace(ROOT)), trace_page(trace(error="the server is down", prompt=[]))):
        assert "Nothing was chosen." in "".join(Reader.of(page).words)


@pytest.mark.parametrize("evil", [*HOSTILE, "long " * 20_000])
def test_every_text_is_escaped(tmp_path, evil):
    page = write_trace(tmp_path / "page.html", small(evil)).read_text(encoding="utf-8")
    reader, clean = Reader.of(page), Reader.of(trace_page(small("x")))
    assert reader.tags == clean.tags
    assert [name for name, _ in reader.attributes] == [name for name, _ in clean.attributes]
    assert not UNSEEN.search(page)
    assert "1337" not in page


def test_the_page_needs_nothing_from_outside():
    text = trace_page(small())
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(Reader.of(text).tags)
    assert "default-src 'none'" in text
    assert "url(" not in text


def test_a_long_chain_is_a_page():
    chain = trace(ROOT, *(node(i, i - 1, i) for i in range(1, 1200)))
    assert Reader.of(trace_page(chain)).tags.count("details") == 1200


def test_the_page_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_trace(tmp_path, small())
