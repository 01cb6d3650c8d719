"""Pictures of a credit page, and how long its filter takes, in headless Chromium.

    python runs/credit/pictures.py CREDIT.html [--output_dir docs]

Shown is the wrong response with a false equation whose largest drop, by the first value model, is at that equation and
is the largest of all; the response with the largest drop if there is none. `credit-wrong.png`, `credit-hover.png`,
`credit-dark.png`, and `runs/credit/page.json`: median milliseconds of a filter over all responses.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from stepcredit.files import write_json

FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "window-size=1400,900")
SHOWN = """
const located = (e) => e.verdict === "wrong" && drops(e, 0).largest?.false && e.parts.some((p) => p.false);
const candidates = episodes.filter(located).length ? episodes.filter(located) : episodes;
const best = candidates.reduce((a, b) => (b.falls[0] < a.falls[0] ? b : a));
go(best, drops(best, 0).largest?.n ?? 0);
return drops(best, 0).largest?.n ?? 0;
"""
FILTER = """
const times = [];
for (const word of ["the", "so", "each", "#### 1", "more", "="]) {
  for (let k = 0; k < 5; k++) {
    document.getElementById("search").value = word;
    document.getElementById("sort").value = "largest drop";
    const start = performance.now();
    filter();
    document.body.offsetHeight;  // the layout, too
    times.push(performance.now() - start);
  }
}
times.sort((a, b) => a - b);
const [median, most] = [times[times.length >> 1], times.at(-1)];
return { responses: episodes.length, filters: times.length, median_ms: median, most_ms: most };
"""


def main() -> None:
    """Opens the page, takes the pictures and times the filter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--output_dir", type=Path, default=Path("docs"))
    options = parser.parse_args()
    browser = opened(options.page)
    step = browser.execute_script(SHOWN)
    browser.save_screenshot(str(options.output_dir / "credit-wrong.png"))
    tokens = browser.find_elements(By.CSS_SELECTOR, f".step[data-step='{step}'] .model:first-child .tok")
    webdriver.ActionChains(browser).move_to_element(tokens[len(tokens) // 2]).perform()
    browser.save_screenshot(str(options.output_dir / "credit-hover.png"))
    browser.find_element(By.TAG_NAME, "body").send_keys("t")
    browser.save_screenshot(str(options.output_dir / "credit-dark.png"))
    write_json(Path(__file__).parent / "page.json", browser.execute_script(FILTER))
    browser.quit()


def opened(page: Path) -> webdriver.Chrome:
    """A browser that shows the page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.get(page.resolve().as_uri())
    return browser


if __name__ == "__main__":
    main()
