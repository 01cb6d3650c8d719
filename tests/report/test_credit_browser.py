"""The credit page in a real browser: filters, keys, links, hovering, themes, and nothing on the console."""

from itertools import count

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from doubles.credit import episode, run
from stepcredit.report.credit.credit_page import credit_page

STEPS = (
    ("2 plus 2 is 4\n", 0.6),
    ("4 times 3 is false\n", 0.35),
    ("so it is 13\n", 0.05),
    ("that is all", 0.1),
    ("<eos>", None),
)
FLAT = (("nothing falls\n", 0.55), ("at all", 0.6), ("<eos>", None))
TURNS = (("look left", 0.6), ("<eos>", 0.3), "the room is empty", ("look right", 0.9), ("<eos>", None))
HOSTILE = "<img src=x onerror=document.title='owned'>"


def lines():
    numbers = count()
    yield run(("oreo", "dqo"), total=60, policy="pi", ref_model="ref")
    for steps, verdict, more in [
        (STEPS, "wrong", {}), (FLAT, "right", {"prompt": "Question of cranes"}), (TURNS, "wrong", {"source": "rooms"}),
        (FLAT, "undecided", {"reward": None}), (STEPS, "truncated", {"prompt_id": "p/0 ü"}),
        (((HOSTILE, 0.1), ("<eos>", None)), "wrong", {"prompt": HOSTILE, "extracted": HOSTILE, "answer": HOSTILE}),
        *[(FLAT, "right", {})] * 40,
    ]:  # fmt: skip
        yield from episode(next(numbers), steps, verdict, models=2, shifts=True, **more)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    page = tmp_path_factory.mktemp("credit") / "credit.html"
    page.write_text(credit_page(lines()), encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def page(browser, address):
    """The page, freshly opened; afterwards nothing is on the console."""
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title == "Credit of 46 responses"


def one(page, css):
    return page.find_element(By.CSS_SELECTOR, css)


def every(page, css):
    return page.find_elements(By.CSS_SELECTOR, css)


def press(page, *keys):
    for key in keys:
        one(page, "body").send_keys(key)


def shown(page):
    return one(page, "#shown").text


def current(page):
    """The response that is shown, by the name in its link."""
    return one(page, "#episode header a").text


def marks(page):
    """Step → the texts of its marks, by the first value model."""
    marked = ".model:first-child .drop, .model:first-child .false"
    return {
        int(step.get_attribute("data-step")): [m.text for m in step.find_elements(By.CSS_SELECTOR, marked)]
        for step in every(page, ".steps .step")
    }


def choose(page, select, value):
    one(page, f"{select} option[value='{value}']").click()


def rows(page):
    return [r.get_attribute("id") for r in every(page, ".row")]


def test_a_wrong_response_has_its_drops_and_its_false_equation_marked(page):
    assert one(page, ".verdict").text == "✗ wrong"
    assert "answered 13, expected 12, reward 0" in one(page, ".answers").text
    assert marks(page) == {0: [], 1: ["▼ first drop", "✗ false equation"], 2: ["▼▼ largest drop"], 3: [], 4: []}
    assert [n.text for n in every(page, ".step[data-step='1'] .numbers")] == ["0.35 −0.25", "0.65 +0.25"]
    assert (
        "46 of 60 responses of logs; V of oreo (token level), dqo (token level); ρ and KL of pi"
        in one(page, "#about").text
    )


def test_v_is_a_curve_with_a_line_per_model_and_a_dot_per_step(page):
    assert len(every(page, ".curve > svg path.line")) == 2
    assert len(every(page, ".curve circle.m0")) == 5
    assert [m.text for m in every(page, ".curve .marker")] == ["▼", "▼▼"]
    heights = [float(dot.get_attribute("cy")) for dot in every(page, ".curve circle.m0")]
    assert heights[1] < heights[0] < heights[2] < heights[4] < heights[3]  # V 0.5, 0.6, 0.35, 0.05, 0.1; up is less


def test_tokens_are_coloured_by_the_sign_and_size_of_the_change(page):
    def colours(step):
        return [
            t.value_of_css_property("background-color")
            for t in every(page, f".step[data-step='{step}'] .model:first-child .tok")
        ]

    rise, small, large = colours(0)[0], colours(1)[0], colours(2)[0]
    assert rise.startswith("rgba(36, 118, 196")
    assert small.startswith("rgba(224, 116, 24")
    assert large.startswith("rgba(224, 116, 24")
    assert float(small.split(",")[3].strip(" )")) < float(large.split(",")[3].strip(" )"))
    assert "underline" in every(page, ".step[data-step='2'] .tok.fell")[0].value_of_css_property("text-decoration")


def test_verdicts_search_tasks_and_drops_filter_the_list(page):
    assert shown(page) == "46 of 46 responses"
    buttons = {b.get_attribute("value"): b for b in every(page, "#verdicts button")}
    assert [b.text for b in buttons.values()] == ["✓ right 41", "✗ wrong 3", "? undecided 1", "… truncated 1"]
    buttons["wrong"].click()
    assert shown(page) == "3 of 46 responses"
    buttons["undecided"].click()
    assert shown(page) == "4 of 46 responses"
    buttons["wrong"].click()
    buttons["undecided"].click()
    one(page, "#search").send_keys("CRANES question")
    assert shown(page) == "1 of 46 responses"
    one(page, "#search").clear()
    one(page, "#search").send_keys("is empty")  # the text of an observation
    assert shown(page) == "1 of 46 responses"
    page.execute_script("document.getElementById('search').value = ''")
    choose(page, "#source", "1")
    assert shown(page) == "1 of 46 responses"
    choose(page, "#source", "")
    one(page, "#dropped").click()
    assert shown(page) == "4 of 46 responses"  # that of two turns falls at its end token, over the observation
    one(page, "#false-only").click()
    assert shown(page) == "2 of 46 responses"


def test_the_least_drop_decides_what_is_a_drop(page):
    field = one(page, "#threshold")
    field.clear()
    field.send_keys("0.28")
    assert marks(page)[1] == ["✗ false equation"]
    assert marks(page)[2] == ["▼ first and largest drop"]
    one(page, "#dropped").click()
    assert shown(page) == "4 of 46 responses"
    field.clear()
    field.send_keys("0.9")
    assert shown(page) == "0 of 46 responses"
    assert every(page, ".row") == []


def test_the_list_is_sorted_by_the_largest_drop_of_a_model(page):
    choose(page, "#sort", "largest drop")
    assert rows(page)[:4] == ["row5", "row0", "row2", "row4"]
    choose(page, "#by", "1")
    assert one(page, "#sort").get_attribute("value") == "largest drop"
    assert rows(page)[0] == "row2"


def test_keys_go_through_responses_steps_and_drops(page):
    names = [current(page)]
    for key in "jjk":
        press(page, key)
        names.append(current(page))
    assert names == ["logs · p0 · 0", "logs · p1 · 0", "rooms · p2 · 0", "logs · p1 · 0"]
    press(page, "k", "n", "n")
    assert page.current_url.endswith("#p0/0/1")
    assert one(page, ".step.current").get_attribute("data-step") == "1"
    press(page, "p")
    assert page.current_url.endswith("#p0/0/0")
    press(page, "d")
    assert page.current_url.endswith("#p0/0/1")
    press(page, "d")
    assert page.current_url.endswith("#p0/0/2")
    press(page, "/")
    assert page.switch_to.active_element.get_attribute("id") == "search"
    page.switch_to.active_element.send_keys("jd")  # typed, not obeyed
    assert one(page, "#search").get_attribute("value") == "jd"
    assert page.current_url.endswith("#p0/0/2")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    press(page, "?")
    assert one(page, "#help").is_displayed()
    press(page, Keys.ESCAPE)
    assert not one(page, "#help").is_displayed()


def test_colours_are_of_tokens_or_of_whole_steps(page):
    first = one(page, ".step[data-step='2'] .model:first-child .tok")
    assert first.value_of_css_property("background-color") != "rgba(0, 0, 0, 0)"
    press(page, "c")
    step = one(page, ".step[data-step='2'] .model:first-child .mono .mono")
    assert step.value_of_css_property("background-color").startswith("rgba(224, 116, 24")
    assert (
        one(page, ".step[data-step='2'] .model:first-child .tok").value_of_css_property("background-color")
        == "rgba(0, 0, 0, 0)"
    )
    assert "over a step" in one(page, ".key").text
    one(page, "#colours").click()
    assert "over a token" in one(page, ".key").text


@pytest.mark.parametrize(("levels", "shown"), [(["step"], "over a step"), (["token"], "over a token")])
def test_v_of_steps_alone_colours_whole_steps_from_the_start(browser, tmp_path, levels, shown):
    page = tmp_path / "credit.html"
    first = run(("oreo",), levels=levels)
    page.write_text(credit_page([first, *episode(0, STEPS, "wrong")]), encoding="utf-8")
    browser.get(page.as_uri())
    assert shown in one(browser, ".key").text


def test_the_list_marks_drops_of_the_threshold_alone(page):
    assert one(page, "#row0 .fall").text == "▼ −0.30"
    one(page, "#threshold").clear()
    one(page, "#threshold").send_keys("0.5")
    assert one(page, "#row0 .fall").text == "−0.30"


def test_a_link_opens_a_step_of_a_response(page, address):
    page.get("about:blank")
    page.get(f"{address}#p%2F0%20%C3%BC/0/2")
    assert current(page) == "logs · p/0 ü · 0"
    assert one(page, ".step.current").get_attribute("data-step") == "2"
    assert one(page, ".row[aria-selected=true]").get_attribute("id") == "row4"
    link = one(page, ".step[data-step='1'] > a")
    link.click()
    assert page.current_url.endswith("#p%2F0%20%C3%BC/0/1")
    page.back()
    assert one(page, ".step.current").get_attribute("data-step") == "2"


def test_hovering_tells_the_numbers_of_a_token(page):
    token = every(page, ".step[data-step='1'] .model:first-child .tok")[1]
    webdriver.ActionChains(page).move_to_element(token).perform()
    assert one(page, "#tip").text.split("\n") == [
        'step 1, token 2 of 5: "times "',
        "V 0.55, ΔV −0.050 (oreo)",
        "V 0.45, ΔV +0.050 (dqo)",
        "ρ +0.25, KL 0.50",
        "whole step: ΔV −0.25, +0.25, Σρ +1.25, KL 2.50",
    ]
    assert one(page, "#cursor").get_attribute("visibility") == "visible"
    assert len(every(page, ".tok.here")) == 2  # once per model
    webdriver.ActionChains(page).move_to_element(one(page, "h1")).perform()
    assert not one(page, "#tip").is_displayed()
    webdriver.ActionChains(page).move_to_element(one(page, ".curve svg")).perform()
    assert one(page, "#tip").is_displayed()
    assert "token" in one(page, "#tip").text


def test_observations_stand_apart(page):
    press(page, "j", "j")
    (observed,) = every(page, ".observation")
    assert observed.text == "tool\nthe room is empty"
    assert len(every(page, ".curve .observed")) == 1
    assert [n.text for n in every(page, ".step.ended .model:first-child .numbers")] == ["0.30 −0.30", ""]


def test_themes(page):
    def paper():
        return one(page, "body").value_of_css_property("background-color")

    def prefers(scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}] if scheme else []
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefers("light")
    light = paper()
    prefers("dark")
    dark = paper()
    assert dark != light
    press(page, "t")
    assert paper() == light
    prefers("light")
    press(page, "t")
    assert paper() == dark
    prefers(None)


def test_texts_are_only_texts(page):
    press(page, *"jjjjj")
    assert one(page, ".answers b").text == HOSTILE
    assert every(page, "img") == []
    assert page.title == "Credit of 46 responses"


def test_a_long_list_draws_only_the_rows_in_sight(page):
    assert len(every(page, ".row")) < 30
    page.execute_script("document.getElementById('list').scrollTop = 1e6")
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert "row45" in rows(page)


def test_the_page_says_whether_v_knows_right_from_wrong(browser, tmp_path):
    """V of oreo is right for all prompts but one, that of dqo the other way round; or there are only two prompts."""

    def told(prompts):
        yield run(("oreo", "dqo"))
        for number in range(2 * prompts):
            right = number % 2 == 0
            steps = (("so 13", 0.9 if right or number == 1 else 0.1), ("<eos>", None))
            about = {"prompt_id": f"p{number // 2}", "sample": number % 2, "prompt": "?"}
            yield from episode(number, steps, "right" if right else "wrong", 2, **about)

    def shown(prompts):
        (tmp_path / "page.html").write_text(credit_page(told(prompts)), encoding="utf-8")
        browser.get((tmp_path / "page.html").as_uri())
        return [(p.text, p.get_attribute("class")) for p in every(browser, "#ranking p")]

    (strong, plain), (inverted, weak) = shown(12)
    first = "ranks a right response above a wrong one to the same prompt in"
    assert strong.startswith(f"V of oreo {first} 96% of 12 pairs of 12 prompts (95% interval ")
    assert strong.endswith("; chance 50%).")
    assert inverted.startswith(f"V of dqo {first} 4% of 12 pairs of 12 prompts (95% interval ")
    assert inverted.endswith(": worse than chance; its colours may be noise.")
    assert (plain, weak) == ("", "weak")
    (few, weak), _ = shown(1)
    assert (few, weak) == (f"V of oreo {first} 50% of 1 pair of 1 prompt: too few to tell whether it can.", "weak")
