"""The live page of a folder in a real browser: it follows what is written, and says when its server has ended."""

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from doubles.credit import episode, run
from doubles.pages import served
from stepcredit.files import write_json
from stepcredit.report.credit.credit_page import credit_page


def curves(folder, steps):
    write_json(folder / "curves.json", {"oreo": [{"step": k, "loss": 1 / (k + 1)} for k in range(steps)]})


def test_a_new_point_is_shown_without_a_reload(browser, tmp_path):
    curves(tmp_path, 3)

    def shows(text):
        return lambda page: text in page.find_element(By.TAG_NAME, "main").text

    with served(tmp_path) as port:
        address = f"http://127.0.0.1:{port}/"
        browser.get(address)
        browser.execute_script("window.opened = true")
        assert shows("step 2, running or stopped")(browser)
        assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 1
        curves(tmp_path, 9)
        WebDriverWait(browser, 60).until(shows("step 8, running or stopped"))
        assert browser.execute_script("return window.opened")
    WebDriverWait(browser, 60).until(shows("stepcredit view has ended"))
    refused = [entry for entry in browser.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]]
    assert [entry for entry in refused if "favicon" not in entry["message"]] == []


def test_a_credit_page_works_and_reaches_nothing_of_the_server(browser, tmp_path):
    lines = [run(), *episode(0, (("falls\n", 0.1), ("<eos>", None)))]
    page = credit_page(lines)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "credit.html").write_text(page)
    (tmp_path / "foreign").mkdir()
    reaching = "fetch('/version').then(() => (document.title = 'reached'), () => (document.title = 'refused'))"
    (tmp_path / "foreign" / "credit.html").write_text(f"<title>opened</title><script>{reaching}</script>")
    with served(tmp_path) as port:
        address = f"http://127.0.0.1:{port}/"
        browser.get(address)
        browser.get_log("browser")
        browser.find_element(By.LINK_TEXT, "ours").click()
        assert browser.find_element(By.CSS_SELECTOR, ".drop").text == "▼ first and largest drop"
        browser.find_element(By.TAG_NAME, "body").send_keys("n")
        assert browser.current_url == f"{address}credit/ours#p0/0/0"
        assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
        browser.get(f"{address}credit/foreign")
        WebDriverWait(browser, 20).until(lambda page: page.title != "opened")
        assert browser.title == "refused"
        browser.get_log("browser")
