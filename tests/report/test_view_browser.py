"""The live page of a folder in a real browser: it follows what is written, and says when its server has ended."""

import threading

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from stepcredit.files import write_json
from stepcredit.report.view.view_server import view_server


def curves(folder, steps):
    write_json(folder / "curves.json", {"oreo": [{"step": k, "loss": 1 / (k + 1)} for k in range(steps)]})


def test_a_new_point_is_shown_without_a_reload(browser, tmp_path):
    curves(tmp_path, 3)

    def shows(text):
        return lambda page: text in page.find_element(By.TAG_NAME, "main").text

    with view_server(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        browser.execute_script("window.opened = true")
        assert shows("step 2, running or stopped")(browser)
        assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 1
        curves(tmp_path, 9)
        WebDriverWait(browser, 60).until(shows("step 8, running or stopped"))
        assert browser.execute_script("return window.opened")
        server.shutdown()
        thread.join()
    WebDriverWait(browser, 60).until(shows("stepcredit view has ended"))
    refused = [entry for entry in browser.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]]
    assert [entry for entry in refused if "favicon" not in entry["message"]] == []
