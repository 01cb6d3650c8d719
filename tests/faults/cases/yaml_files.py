"""YAML files of settings, and recipes."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases.commands import GOOD
from faults.cases.damage import content, folder_in_place_of, loop, unreadable

BAD = {
    "a folder": folder_in_place_of("c.yaml"),
    "a list": content("c.yaml", "- task\n- arithmetic\n"),
    "a number": content("c.yaml", "3\n"),
    "empty": content("c.yaml", ""),
    "no YAML": content("c.yaml", "task: [arithmetic\n"),
    "tabs": content("c.yaml", "task:\n\tname: x\n"),
    "integer keys": content("c.yaml", "1: 2\n"),
    "a list as a key": content("c.yaml", "[a, b]: 2\n"),
    "no UTF-8": unreadable("c.yaml"),
    "deep": content("c.yaml", "task: " + "[" * 20_000 + "]" * 20_000),
    "many aliases": content(
        "c.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    ),
    "a Python object": content("c.yaml", "task: !!python/object/apply:os.system [echo]\n"),
    "an unknown setting": content("c.yaml", "tusk: arithmetic\n"),
    "a nested setting": content("c.yaml", "task: {name: arithmetic}\n"),
    "a number for a name": content("c.yaml", "seed: five\n"),
    "a control character": content("c.yaml", "task: \x07\n"),
    "a link to itself": loop("c.yaml"),
    "a huge number": content("c.yaml", f"seed: {'9' * 5000}\n"),
    "a list for a number": content("c.yaml", "seed: [1, 2]\n"),
    "the same setting twice": content("c.yaml", "seed: 1\nseed: 2\n"),
}  # fmt: skip

RECIPES = {
    "no model": "task: arithmetic\nmethods: {rft: {}}\n",
    "no task": "model: policy\nmethods: {rft: {}}\n",
    "no methods": "model: policy\ntask: arithmetic\n",
    "an unknown section": "model: policy\ntask: arithmetic\nmethods: {rft: {}}\ntrian: {}\n",
    "an unknown method": "model: policy\ntask: arithmetic\nmethods: {grpo: {}}\n",
    "a method of a number": "model: policy\ntask: arithmetic\nmethods: {rft: 3}\n",
    "methods as a list": "model: policy\ntask: arithmetic\nmethods: [rft]\n",
    "an unknown setting": "model: policy\ntask: arithmetic\nmethods: {rft: {bta: 1}}\n",
    "a setting of the wrong type": "model: policy\ntask: arithmetic\nmethods: {rft: {}}\ncollect: {limit: many}\n",
    "a setting out of range": "model: policy\ntask: arithmetic\nmethods: {rft: {}}\ncollect: {num_generations: 0}\n",
    "a learning rate of text": "model: policy\ntask: arithmetic\nmethods: {rft: {learning_rate: fast}}\n",
    "a model that is not there": "model: nowhere\ntask: arithmetic\nmethods: {rft: {}}\n",
    "a task that is not there": "model: policy\ntask: sums\nmethods: {rft: {}}\n",
    "integer keys": "model: policy\ntask: arithmetic\nmethods: {1: {}}\n",
}


def cases() -> Iterator[Case]:
    """Settings of a file for several commands, and recipes."""
    for name in ("collect", "evaluate", "train"):
        for how, damage in BAD.items():
            command = [*GOOD[name], "--config", "c.yaml"]
            if how == "empty" or (how == "the same setting twice" and name != "collect"):
                continue
            yield Case("YAML settings", f"{name}, {how}", command, damage=damage, says=("c.yaml",))
    yield Case("YAML settings", "absent", [*GOOD["collect"], "--config", "none.yaml"], says=("none.yaml",))
    for how, text in RECIPES.items():
        yield Case("recipes", how, GOOD["reproduce"], damage=content("recipe.yaml", text), says=())
    for how in ("a folder", "a list", "empty", "no YAML", "no UTF-8", "deep", "a Python object"):
        command = ["reproduce", "c.yaml", "--output_dir", "out"]
        yield Case("recipes", how, command, damage=BAD[how], says=("c.yaml",))
