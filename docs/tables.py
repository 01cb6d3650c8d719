"""Rewrites the tables of docs/ that are made from the code: flags of commands, and what methods need and are set by.

`make docs-tables` runs it; a test compares. A table stands between `<!-- NAME -->` and `<!-- end -->`, NAME one of

    flags of COMMAND            the settings of a command (of `train`: its own, without those of a method)
    settings of all methods     those of `OfflineConfig`
    settings of METHOD          those of its config beyond these, and defaults that differ
    facts of METHOD             models, data and normaliser, from the table of methods
    methods                     all of them
"""

import dataclasses
import importlib
import re
from pathlib import Path

from stepcredit.cli import COMMANDS
from stepcredit.training.items import MISMATCHED, PAIRS
from stepcredit.training.methods import METHODS
from stepcredit.training.offline_config import OfflineConfig

DOCS = Path(__file__).parent
MARKER = re.compile(
    r"(?P<start><!-- (?P<name>(?:flags|settings|facts) of [\w ]+|methods) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


class Read(BaseException):
    """Ends a command when its settings are known."""


def settings_of(words):
    """Returns the config classes whose settings a command reads.

    Args:
        words: the command and what picks its settings: ["collect"], ["train", "--method", "oreo"].
    """
    found = []

    def parse(command, kinds, arguments):
        found.extend(kinds)
        raise Read

    command = COMMANDS[words[0]]
    module = importlib.import_module(f"stepcredit.commands.{command.module}")
    kept, module.parse = module.parse, parse
    try:
        command.run(list(words[1:]))
    except Read:
        return found
    finally:
        module.parse = kept
    raise ValueError(f"stepcredit {' '.join(words)} reads no settings")


def escaped(text):
    """Returns text as the cell of a table."""
    return re.sub(r"([\\|<>$*])", r"\\\1", " ".join(str(text).split()))


def default_of(field):
    """Returns the default of a setting as a cell."""
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return "**required**"
    if default is None or default in ([], "{}", ""):
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else f"{default}"
    return f"`{shown.lower() if isinstance(default, bool) else shown}`"


def meaning_of(field):
    """Returns the help of a setting, and its choices, as a cell."""
    choices = field.metadata.get("choices")
    named = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else ""
    return escaped(field.metadata["help"]) + named


def table(fields, dashes="--"):
    """Returns the table of settings, required ones first."""
    needed = [f for f in fields if default_of(f) == "**required**"]
    rows = [*needed, *(f for f in fields if f not in needed)]
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for f in rows:
        name = f.name.upper() if f.metadata.get("positional") else f"{dashes}{f.name}"
        lines.append(f"| `{name}` | {default_of(f)} | {meaning_of(f)} |")
    return "\n".join(lines)


def declared(kind, *, below=None):
    """Returns the fields of a config that classes of this package declare, those of `below` and its bases left out."""
    classes = [c for c in kind.__mro__ if c.__module__.startswith("stepcredit")]
    if below is not None:
        classes = [c for c in classes if c not in below.__mro__]
    names = {name for c in classes for name in vars(c).get("__annotations__", {})}
    return [f for f in dataclasses.fields(kind) if f.name in names]


def flags_of(name):
    """Returns the settings of a command."""
    words = name.split()
    if words[0] in ("train", "estimate"):
        kind = settings_of([words[0], "--method", "oreo"])[0]
        return table(dataclasses.fields(kind))
    (kind,) = settings_of(words)
    return table(dataclasses.fields(kind))


def settings(name):
    """Returns the settings of a method, or those of all."""
    if name == "all methods":
        return table([f for f in declared(OfflineConfig) if f.name != "method"], "")
    return table(declared(METHODS[name].config, below=OfflineConfig), "")


def facts(name):
    """Returns what a method trains, needs and divides by."""
    method = METHODS[name]
    kl = method.needs_kl(method.config(output_dir="out"))
    layout = {PAIRS: "a right and a wrong response to one prompt", MISMATCHED: "a response, and its prompt with the "
              "response to another one"}.get(method.batch_layout, "a response")  # fmt: skip
    rows = {
        "flag, config": f"`--method {name}`, `{method.config.__name__}`",
        "trains": "policy and value model" if method.needs_value else "policy",
        "reads": ", ".join(
            [
                *(["the reference"] if method.needs_reference else []),
                *(["the exact KL to it"] if kl else []),
                *(["log-probabilities of the policy that sampled"] if method.needs_behavior else []),
                *(["rewards of all responses to the prompt"] if method.group_number else []),
            ]
        )
        or "nothing else",
        "one item of a batch": layout,
        "mean over": "action tokens of a step" if method.per == "token" else "items of a step",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())])


def methods():
    """Returns the table of all methods."""
    lines = ["| method | in reports | value model | reference | behaviour log-probs | item |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, method in METHODS.items():
        item = {PAIRS: "pair", MISMATCHED: "response, mismatched one"}.get(method.batch_layout, "response")
        cells = [f"[`{name}`]({name}.md)", method.label, *("yes" if has else "" for has in
                 (method.needs_value, method.needs_reference, method.needs_behavior)), item]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def made(name):
    """Returns the table of a marker's name."""
    kind, _, of = name.partition(" of ")
    return {"flags": flags_of, "settings": settings, "facts": facts}[kind](of) if of else methods()


def page(text):
    """Returns the text of a page with its tables made anew."""
    return MARKER.sub(lambda m: f"{m['start']}\n{made(m['name'])}\n\n{m['end']}", text)


def main():
    """Rewrites the pages that have such tables."""
    for path in sorted(DOCS.rglob("*.md")):
        if path.relative_to(DOCS).parts[0] in ("_build", "api"):
            continue
        text = path.read_text(encoding="utf-8")
        if page(text) != text:
            path.write_text(page(text), encoding="utf-8")


if __name__ == "__main__":
    main()
