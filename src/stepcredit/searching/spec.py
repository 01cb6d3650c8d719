"""Search specification, for responses and for turns of conversations.

name            response                                        turn of a conversation
greedy          greedy decoding                                 greedy decoding
sample          `width` responses, all counted                  `width` conversations, all counted
vote            most frequent answer of `width` responses
weighted-vote   answer of largest total V of `width` responses
best-of         response of highest V of `width`                reply of highest V of `width`
beam            step beam search with `width` beams
random                                                          random reply of `width`
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from stepcredit.engines.engine import SamplingParams
from stepcredit.errors import InputError, quoted
from stepcredit.metrics.samples import powers_of_two
from stepcredit.searching.selection import CHOOSERS
from stepcredit.settings import Limits, check_settings, resembling

OF_RESPONSES = ("greedy", "sample", *CHOOSERS, "beam")
"""Names of searches for a response."""
OF_TURNS = ("greedy", "sample", "best-of", "random")
"""Names of searches for the next turn of a conversation."""
SEARCHES = tuple(dict.fromkeys((*OF_RESPONSES, *OF_TURNS)))


@dataclass(frozen=True)
class SearchSpec:
    """Specification of one search.

    Attributes:
        name: one of `SEARCHES`.
        width: number of responses (K), replies per turn (K) or beams (B).
        params: sampling parameters; the length limit is per response or per reply. Greedy search ignores temperature
            and filters.
        continuations: steps sampled per beam, C; by default `width`, as in the paper. With width 1 this is best of C
            per step.
        max_step_tokens: length limit of a step in beam search; by default as V was trained, or 256.
        choose: final choice of beam search: by "value", or by a value-weighted "vote".
        budget: maximum number of tokens generated and scored per problem; None is no limit.

    Raises:
        InputError: an unknown name, or a setting out of range.
    """

    name: str
    width: Annotated[int, Limits(at_least=1)]
    params: SamplingParams
    continuations: Annotated[int | None, Limits(at_least=1)] = None
    max_step_tokens: Annotated[int | None, Limits(at_least=1)] = None
    choose: str = field(default="value", metadata={"choices": ["value", "vote"]})
    budget: Annotated[int | None, Limits(at_least=1)] = None

    def __post_init__(self) -> None:
        if self.name not in SEARCHES:
            hint = resembling(self.name, SEARCHES)
            raise InputError(f"unknown search {quoted(self.name)}{hint}; choose from {', '.join(SEARCHES)}", "search")
        check_settings(self)
        if self.name == "greedy":
            object.__setattr__(self, "params", replace(self.params, temperature=0.0, top_p=1.0, top_k=0))

    @property
    def label(self) -> str:
        """Name and width, for file names and progress bars."""
        return f"{self.name}{self.width}"

    @property
    def needs_scorer(self) -> bool:
        """Whether the search chooses by value."""
        return self.name in ("weighted-vote", "best-of", "beam")

    @property
    def samples(self) -> int:
        """Number of episodes per problem in the results: `width` for "sample", otherwise 1."""
        return self.width if self.name == "sample" else 1

    @property
    def replies(self) -> int:
        """Number of replies sampled per turn of a conversation."""
        return self.width if self.name in ("best-of", "random") else 1

    @property
    def values_replies(self) -> bool:
        """Whether a scorer chooses among several replies."""
        return self.name == "best-of" and self.width > 1

    @property
    def steps(self) -> int:
        """Number of continuations per beam."""
        return self.continuations or self.width


def requested_searches(
    name: str, spec: SearchSpec, samples: int, has_scorer: bool, is_interactive: bool
) -> list[SearchSpec]:
    """Returns the searches of `--search NAME`, with the settings of `spec`; "all" is every applicable search.

    For responses, "all" is greedy, `width` samples, and the others at every power of two up to `width`. For turns it is
    greedy, `samples` samples, and the others at every width from 2 to that of `spec`.

    Args:
        name: a name in `SEARCHES`, or "all".
        spec: width and other settings.
        samples: width of "sample".
        has_scorer: whether there is a value model or a reward model.
        is_interactive: whether the task is interactive (search for turns).

    Raises:
        InputError: an unknown search, one that lacks a scorer, or one that does not apply to the task.
    """
    names = OF_TURNS if is_interactive else OF_RESPONSES
    if name == "all":
        chosen = [name for name in names if name not in ("greedy", "sample")]
        widths = list(range(2, spec.width + 1)) if is_interactive else powers_of_two(spec.width)
        wider = [replace(spec, name=name, width=width) for name in chosen for width in widths]
        sample = replace(spec, name="sample", width=samples if is_interactive else spec.width)
        return [replace(spec, name="greedy", width=1), sample, *(s for s in wider if has_scorer or not s.needs_scorer)]
    one = replace(spec, name=name, width={"greedy": 1, "sample": samples}.get(name, spec.width))
    if one.needs_scorer and not has_scorer:
        raise InputError(f"{name} needs --value_model or --reward_model", "search")
    if name not in names:
        kind = "an interactive" if is_interactive else "a single-turn"
        raise InputError(f"{name!r} does not apply to {kind} task; choose from {', '.join(names)}, all", "search")
    return [one]
