"""Description of a search: how an answer is found, for responses and for the turns of conversations alike.

name            a response                                      a turn of a conversation
greedy          the likeliest token each time                   the same
sample          `width` responses, each of them counts          `width` conversations, each of them counts
vote            of `width` responses the most frequent answer
weighted-vote   the answer whose responses weigh most by V
best-of         the most valued of `width` responses            the most valued of `width` replies
beam            a step beam of `width`
random                                                          any of `width` replies
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
"""Searches for a response."""
OF_TURNS = ("greedy", "sample", "best-of", "random")
"""Searches for the next turn of a conversation."""
SEARCHES = tuple(dict.fromkeys((*OF_RESPONSES, *OF_TURNS)))


@dataclass(frozen=True)
class SearchSpec:
    """One search.

    Attributes:
        name: one of `SEARCHES`.
        width: responses (K), replies a turn (K) or beams (B).
        params: sampling; its length limit is that of a response, or of a reply. Greedy has neither temperature nor
            filters.
        continuations: steps drawn of each beam, C; None is `width`, as in the paper. With width 1 this is best of C a
            step.
        max_step_tokens: a beam's step without a delimiter ends after so many tokens; None: as V was trained, or 256.
        choose: the beam's last choice: by "value", or by a "vote" weighed by values.
        budget: tokens generated and scored together, at most so many per problem; None is no limit.

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
        """Name and width, for files and progress bars."""
        return f"{self.name}{self.width}"

    @property
    def needs_scorer(self) -> bool:
        """Whether values choose."""
        return self.name in ("weighted-vote", "best-of", "beam")

    @property
    def samples(self) -> int:
        """Episodes per problem that count: `width` where sampled, else the one that was chosen."""
        return self.width if self.name == "sample" else 1

    @property
    def replies(self) -> int:
        """Replies drawn at each turn of a conversation."""
        return self.width if self.name in ("best-of", "random") else 1

    @property
    def values_replies(self) -> bool:
        """Whether a scorer has replies to choose from."""
        return self.name == "best-of" and self.width > 1

    @property
    def steps(self) -> int:
        """Continuations of each beam."""
        return self.continuations or self.width


def requested_searches(
    name: str, spec: SearchSpec, samples: int, has_scorer: bool, is_interactive: bool
) -> list[SearchSpec]:
    """What `--search NAME` asks for, with the settings of `spec`; "all" is every search that has what it needs.

    Of responses, "all" is greedy, `width` samples, and the others at every power of two up to `width`. Of turns it is
    greedy, `samples` samples, and the others at every width from 2 to that of `spec`.

    Args:
        name: a name of `SEARCHES`, or "all".
        spec: whose width and other settings are taken.
        samples: the width of "sample".
        has_scorer: whether there is somebody to say how good responses are.
        is_interactive: whether turns of conversations are searched for.

    Raises:
        InputError: an unknown search, or one that does not have what it needs.
    """
    known = OF_TURNS if is_interactive else OF_RESPONSES
    if name == "all":
        chosen = [name for name in known if name not in ("greedy", "sample")]
        widths = list(range(2, spec.width + 1)) if is_interactive else powers_of_two(spec.width)
        others = [replace(spec, name=name, width=width) for name in chosen for width in widths]
        sample = replace(spec, name="sample", width=samples if is_interactive else spec.width)
        return [replace(spec, name="greedy", width=1), sample, *(s for s in others if has_scorer or not s.needs_scorer)]
    one = replace(spec, name=name, width={"greedy": 1, "sample": samples}.get(name, spec.width))
    if one.needs_scorer and not has_scorer:
        raise InputError(f"{name} needs --value_model, or a --reward_model", "search")
    if name not in known and is_interactive:
        raise InputError(f"{name!r} is not for an interactive task: {', '.join(known)}, all", "search")
    if name not in known:
        raise InputError(f"{name} is a choice among replies, of an interactive task (fetch, alfworld)", "search")
    return [one]
