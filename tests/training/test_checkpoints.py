from stepcredit.training.checkpoints import last_checkpoint


def test_the_newest_complete_one_by_number(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    states = {"9": "{}", "10": "{}", "11": None, "12": "{", "x": "{}"}
    for number, state in states.items():
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
