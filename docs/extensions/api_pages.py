"""The API reference: pages in Markdown (`docs/api`, not kept) from docstrings, which griffe reads without importing."""

import ast
import re
from pathlib import Path

import griffe

PACKAGE = "stepcredit"
TOPICS = {
    "trainer": ("Trainer and configs", ["OfflineTrainer", "OfflineConfig", "*Config"]),
    "commands": ("Commands as functions", ["collect", "evaluate", "search", "grade"]),
    "episodes": ("Episodes", ["load_episodes", "append_episodes", "Episode", "StopReason", "Verdict", "Grade"]),
    "tasks": (
        "Tasks",
        ["Problem", "Task", "TaskDefaults", "InteractiveTask", "InteractiveTaskDefaults", "Observation"],
    ),
    "errors": ("Errors", ["InputError"]),
}
"""Page → its title and public names; `*Config` stands for the config of every method."""

OBJECTIVES = "objectives"
HOOKS = {
    "training_step", "compute_loss", "get_batch_samples", "create_optimizer", "create_scheduler", "log",
    "evaluation_loop", "prediction_step",
}  # fmt: skip
"""Methods that `transformers.Trainer` calls, and users do not."""


def generate(docs):
    """Writes docs/api: a page per topic of the public names, and one of the objectives.

    Raises:
        ValueError: a public name has no page.
    """
    package = griffe.load(PACKAGE, search_paths=[str(docs.parent / "src")], docstring_parser="google")
    folder = docs / "api"
    folder.mkdir(exist_ok=True)
    public = public_names(package)
    listed = {name for _, names in TOPICS.values() for name in names}
    configs = sorted(name for name in public if name.endswith("Config") and name not in listed)
    missing = set(public) - listed - set(configs)
    if missing:
        raise ValueError(f"docs/extensions/api_pages.py: no page lists {', '.join(sorted(missing))}")
    for page, (title, names) in TOPICS.items():
        names = [n for name in names for n in (configs if name == "*Config" else [name])]
        text = "\n".join(part for name in names for part in documented(f"{PACKAGE}.{name}", public[name], "##"))
        keep(folder / f"{page}.md", f"# {title}\n\nPublic names of `stepcredit`.\n\n{text}")
    keep(folder / f"{OBJECTIVES}.md", objectives(package[OBJECTIVES]))


def public_names(package):
    """Returns public name → its object: the names of `__init__.py`, and the configs that have a method."""
    homes = ast.literal_eval(str(package["_HOME"].value))
    configs = package["training.configs"].members
    methods = {name: c for name, c in configs.items() if not c.is_alias and c.is_class and "method" in c.members}
    named = {name: package[f"{home}.{name}"] for name, home in homes.items()}
    return {**named, **methods, "OfflineConfig": package["training.offline_config.OfflineConfig"]}


def objectives(package):
    """Returns the page of the objectives: every module with its equations, and its public functions."""
    parts = ["# Objectives\n\nThe mathematics of the methods, as pure functions of tensors.\n"]
    for name, module in sorted(package.modules.items()):
        parts += [f"## {PACKAGE}.{OBJECTIVES}.{name}\n", *docstring(module, "###")]
        members = [m for m in module.members.values() if not m.is_alias and not m.name.startswith("_")]
        for member in members:
            if member.is_function or member.is_class:
                parts += documented(member.name, member, "###")
    return "\n".join(parts)


def documented(title, thing, level):
    """Returns the Markdown of a function or a class with its public methods: signature, docstring, sections."""
    parts = [f"{level} {title}\n"]
    if thing.is_function:
        parts.append(f"```python\n{signature(thing)}\n```\n")
    elif "__init__" in thing.members and not is_dataclass(thing):
        parts.append(f"```python\n{signature(thing['__init__'], thing.name)}\n```\n")
    parts += docstring(thing, f"{level}#")
    if thing.is_class and "method" in thing.members and thing.name.endswith("Config"):
        name = ast.literal_eval(str(thing["method"].value or "''"))
        page = f"../methods/{name or 'settings'}.md"
        parts.append(f"Its settings: [{name or 'those of every method'}]({page}).\n")
    if thing.is_class:
        for member in thing.members.values():
            if member.is_attribute and any("Enum" in str(base) for base in thing.bases):
                what = f": {one_line(member.docstring.value)}" if member.has_docstring else ""
                parts.append(f"- `{member.name}` = `{member.value}`{what}\n")
                continue
            if member.is_alias or member.name.startswith("_") or member.name in HOOKS or not member.has_docstring:
                continue
            if member.is_function:
                parts += documented(f"{thing.name}.{member.name}", member, f"{level}#")
            elif member.is_attribute:
                parts.append(f"- `{member.name}`: {one_line(member.docstring.value)}\n")
    return parts


def is_dataclass(thing):
    """Whether a class is a dataclass, whose fields are listed in its docstring or on the page of its method."""
    return any("dataclass" in str(decorator.value) for decorator in thing.decorators)


def signature(function, name=None):
    """Returns the call of a function with its annotations, one parameter a line where it is long."""
    given = [p for p in function.parameters if p.name not in ("self", "cls")]
    shown, named = [], False
    for p in given:
        kind = p.kind.value if p.kind else ""
        star = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        if kind == "keyword-only" and not named:
            shown.append("*")
        named = named or kind in ("keyword-only", "variadic positional")
        default = "" if p.default is None or star else f" = {p.default}"
        shown.append(f"{star}{p.name}{f': {p.annotation}' if p.annotation else ''}{default}")
    returns = f" -> {function.returns}" if function.returns and name is None else ""
    line = f"{name or function.name}({', '.join(shown)}){returns}"
    if len(line) <= 100:
        return line
    return f"{name or function.name}(\n    " + ",\n    ".join(shown) + f",\n){returns}"


def docstring(thing, level):
    """Returns the text of a docstring, and its sections as lists."""
    if not thing.has_docstring:
        return []
    parts = []
    for section in thing.docstring.parse("google", warnings=False):
        if section.kind.value == "text":
            parts.append(f"{text_of(section.value)}\n")
        elif section.kind.value == "admonition":
            parts.append(f"**{section.title}** {one_line(section.value.description)}\n")
        else:
            parts.append(f"**{section.title or section.kind.value.capitalize()}**\n")
            parts += [f"- {item(entry)}" for entry in section.value] + [""]
    return parts


def item(entry):
    """Returns an entry of a section: name or exception, and what it is."""
    name = getattr(entry, "name", None) or getattr(entry, "annotation", "")
    return f"`{name}`: {one_line(entry.description)}"


def one_line(text):
    """Returns a description as one line of Markdown."""
    return text_of(" ".join(text.split()))


def text_of(text):
    """Returns text of a docstring as Markdown: a dollar is a character there, and indented blocks stay as they are."""
    blocks = re.split(r"((?:^ {4}.*\n?|^\n(?= {4}))+)", text, flags=re.MULTILINE)
    return "".join(b if k % 2 else re.sub(r"(?<!\\)\$", r"\\$", b) for k, b in enumerate(blocks))


def keep(path, text):
    """Writes a page if it changed, so that Sphinx reads again only what did."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app):
    """Generates the pages before the sources are read."""
    generate(Path(app.srcdir))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
