"""The tasks `reasoning-gym:NAME`: a hundred generated datasets with verifiers (arXiv 2505.24760).

    reasoning-gym:gsm_symbolic                          GSM8K's templates with other names and numbers
    reasoning-gym:chain_sum:min_terms=2,max_terms=3     with settings of the generator; values are YAML

The split of a problem is determined by its text: train 80%, validation 10%, test 10%. So no two splits share a problem,
whatever the seeds. Templates are shared: `gsm_symbolic` has the same sentences in all splits.

Verdicts are those of the dataset's own verifier: right at a score of 1, wrong below. Partial scores (0.01 for a number,
0.1 for a list in the wrong notation) are wrong, because a reward here says whether the end was right. If the verifier
raises, or takes too long, the verdict is undecided. Nothing that a model writes is evaluated (`safe_forms.py`), and
five verifiers that err are made stricter (`answer_checks.py`).

The answer of a response is what its last `<answer>…</answer>` holds; without one, what its last `####` or `\\boxed{}`
holds; without any, its last line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import yaml

from stepcredit.errors import InputError, one_line, quoted
from stepcredit.grading.extraction.boxes import boxes
from stepcredit.grading.grade import Grade
from stepcredit.grading.style import Marker
from stepcredit.grading.workers import Workers
from stepcredit.tasks.digits import SPLITS
from stepcredit.tasks.prompts import style_named
from stepcredit.tasks.task import Problem, TaskDefaults
from stepcredit.verdict import Verdict

PREFIX = "reasoning-gym:"
ADAPTER = "1"
"""Version of this file's part in problems and verdicts."""
DEFAULT_COUNT = 1000
PATIENCE = 5000
"""Draws without a new problem after which a split is taken to have no more."""
BATCH = 250
CHECK_SECONDS, GENERATION_SECONDS, VERIFIER_SECONDS = 8.0, 120.0, 20.0
"""Processor seconds until settings are refused, the generator has failed, or a verdict is undecided."""

_SETTINGS = re.compile(r"(\w+)=(.*?)(?:,(?=\w+=)|\Z)", re.DOTALL)
_TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_END = re.compile(r"\n#### *(.+?)\s*\Z")


class ReasoningGym(TaskDefaults):
    """One dataset of reasoning-gym as a task.

    Args:
        given: `NAME` or `NAME:setting=value,setting=value`.
        prompt_style: a name in `prompts.PROMPT_STYLES`; default `answer-tags`.

    Raises:
        InputError: reasoning-gym is not installed, has no such dataset, or refuses a setting; or unknown style.
    """

    max_new_tokens = 1024

    def __init__(self, given: str, prompt_style: str | None = None) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise InputError("needs the extra: pip install 'stepcredit[reasoning-gym]'", "reasoning-gym")
        self.prompt_style = style_named("reasoning-gym", prompt_style or "answer-tags")
        self.stop = self.prompt_style.stop
        self._dataset, colon, settings = given.partition(":")
        self._settings = settings_of_text(settings) if colon else {}
        self.name = PREFIX + given
        self.version = f"{ADAPTER} (reasoning-gym {version('reasoning-gym')})"
        said = self._ask({"ask": "check"}, CHECK_SECONDS)
        if "reason" in said:
            raise InputError(f"a problem of {self._dataset} with these settings {said['reason']}", "task")
        if "refused" in said:
            raise InputError(one_line(said["refused"], 3000), "task")

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns `count` different problems of a split (default 1,000, or all if there are fewer), sampled with the
        seed.

        Raises:
            InputError: unknown split, more problems than the split has, or a generator that takes too long.
        """
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(SPLITS)}", "split")
        low, high = SPLITS[split]
        problems: dict[str, Problem] = {}
        wanted, last = DEFAULT_COUNT if count is None else count, 0
        for draw, entry in self._drawn(seed):
            if len(problems) == wanted or draw - last > PATIENCE:
                break
            question = "" if entry is None else entry["question"]
            if entry is None or question in problems or not low <= zlib.crc32(question.encode()) % 100 < high:
                continue
            problems[question], last = self._problem(entry, seed, draw), draw
        if count is not None and len(problems) < count:
            raise InputError(
                f"{count} problems were asked for; {PATIENCE} draws in a row gave none besides {len(problems)} in "
                f"{split}", "limit")  # fmt: skip
        return list(problems.values())

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grades a response with the dataset's verifier; strict if the answer stands where the style asks for it.

        Raises:
            InputError: the problem is of another dataset or other settings.
        """
        place = re.fullmatch(rf"{re.escape(self._id)}-(\d+)-(\d+)", problem.prompt_id)
        if place is None:
            raise InputError(f"is no problem of {self.name}", f"problem {problem.prompt_id}")
        found, marker = answer_of(response)
        strict = marker == _asked(self.prompt_style.style.marker)
        if not found:
            return Grade(Verdict.WRONG, None, "no answer", strict=False)
        request = {"ask": "score", "seed": int(place[1]), "draw": int(place[2]), "answer": found}
        said = self._ask(request, VERIFIER_SECONDS)
        if "score" not in said:
            why = said.get("reason") or said["error"]
            return Grade(Verdict.UNDECIDED, found, f"the verifier: {one_line(why, 300)}", strict)
        verdict = Verdict.RIGHT if said["score"] >= 1.0 else Verdict.WRONG
        return Grade(verdict, found, f"the verifier's score is {said['score']:g}", strict)

    @property
    def _id(self) -> str:
        """Start of the ids of problems; settings other than the defaults are part of it."""
        text = json.dumps(self._settings, sort_keys=True)
        return self._dataset + (f"~{hashlib.sha256(text.encode()).hexdigest()[:8]}" if self._settings else "")

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        return _workers().ask({**request, "name": self._dataset, "settings": self._settings}, seconds)

    def _drawn(self, seed: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """The dataset's entries without end, with their numbers; None where the generator failed."""
        first = 0
        while True:
            request = {"ask": "draw", "seed": seed, "first": first, "most": BATCH}
            said = self._ask(request, GENERATION_SECONDS)
            if "entries" not in said:
                raise InputError(f"the generator failed at entry {first}: {one_line(said['reason'])}", self.name)
            yield from enumerate(said["entries"], first)
            first += len(said["entries"])

    def _problem(self, entry: dict[str, Any], seed: int, draw: int) -> Problem:
        solution = entry["solution"]
        return Problem(
            prompt_id=f"{self._id}-{seed}-{draw}",
            prompt=self.prompt_style.render(entry["question"]),
            answer=entry["answer"] or "",
            solution=None if solution is None else self.prompt_style.lead + self._ended(solution.strip()),
            metadata={} if entry["template"] is None else {"template": entry["template"]},
        )

    def _ended(self, solution: str) -> str:
        """A worked solution that ends in `#### N`, ended as the prompt style asks."""
        end = {
            "tags": r"\n<answer>\1</answer>", "boxed": r"\nThe answer is \\boxed{\1}.", "hashes": r"\n#### \1",
        }[_asked(self.prompt_style.style.marker)]  # fmt: skip
        return _END.sub(end, solution)


def settings_of_text(text: str) -> dict[str, Any]:
    """Reads `setting=value,setting=value`; values are YAML.

    Raises:
        InputError: the text has another form.
    """
    found = list(_SETTINGS.finditer(text))
    if not found or "".join(match[0] for match in found) != text:
        raise InputError(f"{quoted(text)}: give settings as setting=value,setting=value", "task")
    try:
        settings = {match[1]: yaml.safe_load(match[2]) for match in found}
        json.dumps(settings)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        why = one_line(getattr(error, "problem", None) or error)
        raise InputError(f"{quoted(text)}: a value is not YAML ({why})", "task") from error
    return settings


def answer_of(response: str) -> tuple[str, str]:
    """Returns the answer of a response and where it stood: `tags`, `hashes`, `boxed` or `line` (module docstring)."""
    if tagged := _TAGS.findall(response):
        inner = tagged[-1].strip()
        whole = boxes(inner)
        return (whole[0].content if len(whole) == 1 and whole[0].end - whole[0].start == len(inner) else inner), "tags"
    boxed, hashes = boxes(response), response.rfind("####")
    if boxed and boxed[-1].start > hashes:
        return boxed[-1].content.strip(), "boxed"
    if hashes >= 0:
        after = response[hashes:].lstrip("#")
        line = after.partition("\n")[0].strip()
        return line or after.strip(), "hashes"
    lines = response.strip().splitlines()
    return (lines[-1].strip() if lines else ""), "line"


def _asked(marker: Marker | None) -> str:
    return {Marker.HASHES: "hashes", Marker.BOXED: "boxed"}.get(marker, "tags") if marker else "tags"


@cache
def _workers() -> Workers:
    """One worker, started when first needed, that keeps the entries it has generated."""
    return Workers(1, ["-m", "stepcredit.tasks.gym.gym_worker"])
