"""Result files: which rows replace which."""

import pytest

from stepcredit.results.store import IDENTITY, add_rows, read_rows

ROW = dict.fromkeys(IDENTITY, "a") | {"accuracy": 0.5}


def test_a_row_measured_again_takes_the_place_of_the_old_one(tmp_path):
    add_rows(tmp_path / "r.json", [ROW])
    add_rows(tmp_path / "r.json", [ROW | {"accuracy": 0.75}])
    assert read_rows(tmp_path / "r.json") == [ROW | {"accuracy": 0.75}]


@pytest.mark.parametrize("name", ["search", "width", "seed", "temperature", "top_p", "top_k"])
def test_a_row_of_another_search_or_sampling_stands_beside_it(tmp_path, name):
    plain = {key: value for key, value in ROW.items() if key != name}
    add_rows(tmp_path / "r.json", [plain])
    add_rows(tmp_path / "r.json", [ROW])
    assert read_rows(tmp_path / "r.json") == [plain, ROW]
