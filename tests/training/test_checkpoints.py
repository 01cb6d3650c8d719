from stepcredit.training.checkpoints import last_checkpoint

WHOLE = '{"global_step": 1, "max_steps": 2}'


def test_the_newest_complete_one_by_number(tmp_path, capsys):
    assert last_checkpoint(tmp_path / "none") is None
    states = {"9": WHOLE, "10": WHOLE, "11": None, "12": "{", "13": "{}", "x": WHOLE}
    for number, state in states.items():
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in told] == [f"checkpoint-{k} is left out" for k in (13, 12, 11)]
