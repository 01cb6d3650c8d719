"""Token ids of a conversation between a policy and an environment.

Sampled ids are never re-tokenised; prompt and observations are tokenised once. What the chat template writes between
the end of a reply and the next open turn belongs to the observation:

    ids        <user> hi <end> \\n <assistant>   go <end>   \\n <user> wall <end> \\n <assistant>   left <end>
    is action    -    -    -    -      -        yes  yes     -    -     -    -    -      -        yes   yes
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepcredit.episodes.encoding import continuation_ids, prompt_ids, response_text
from stepcredit.episodes.episode import Message, Tokens, recorded
from stepcredit.episodes.turns import Tokenizer, TurnEnds, observation_after_reply, turn_ends


class Conversation:
    """A conversation in progress: the policy is the assistant, the environment the user.

    Args:
        prompt: the messages before the first reply.
        tokenizer: the policy's tokenizer, with a chat template.
        ends: the end-of-turn tokens; by default those of the tokenizer.

    Attributes:
        prompt: the messages before the first reply.
        completion: the messages from the first reply on.
        ids: the token ids so far, up to the start of the next reply or the end of the last one.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, prompt: Sequence[Message], tokenizer: Tokenizer, ends: TurnEnds | None = None) -> None:
        self.prompt: list[Message] = list(prompt)
        self.completion: list[Message] = []
        self.ids: list[int] = prompt_ids(self.prompt, tokenizer)
        self._tokenizer = tokenizer
        self._ends = ends or turn_ends(tokenizer)
        self._is_action = [False] * len(self.ids)
        self._log_prob = [0.0] * len(self.ids)

    @property
    def messages(self) -> list[Message]:
        """All messages so far."""
        return [*self.prompt, *self.completion]

    @property
    def turns(self) -> int:
        """The number of replies so far."""
        return sum(message["role"] == "assistant" for message in self.completion)

    def reply(self, ids: Sequence[int], log_prob: Sequence[float]) -> str:
        """Appends a sampled reply and returns its text without the end-of-turn token.

        Args:
            ids: the sampled ids, including the end token if there is one.
            log_prob: log μ(a|s) of each id.
        """
        text = response_text(ids, self._tokenizer, self._ends)
        self.completion.append({"role": "assistant", "content": text})
        self._append(ids, log_prob, is_action=True)
        return text

    def observe(self, text: str, ids: list[int] | None = None) -> list[int]:
        """Appends an observation and returns the ids that it adds.

        Args:
            text: the observation.
            ids: the result of `observation_ids`, if it was computed before.
        """
        ids = self.observation_ids(text) if ids is None else ids
        self.completion.append({"role": "user", "content": text})
        self._append(ids, [0.0] * len(ids), is_action=False)
        return ids

    def observation_ids(self, text: str) -> list[int]:
        """Returns the ids that an observation would add, from the end of the last reply to the start of the next one.

        They begin with the template's end of turn if the reply did not end with it (but with a stop string or another
        end token).

        Raises:
            InputError: the template leaves out earlier replies.
        """
        added = observation_after_reply(self.prompt, text, self._tokenizer)
        if self.ids[-1] == self._ends.of_chat:
            added = added.removeprefix(self._ends.chat_end)
        return continuation_ids(self.ids, added, self._tokenizer)

    def tokens(self) -> Tokens:
        """Returns the ids so far with their action mask and behaviour log-probabilities.

        Raises:
            InputError: there is no reply yet.
        """
        return Tokens(
            ids=np.array(self.ids, dtype=np.int32),
            action_mask=np.array(self._is_action, dtype=np.bool_),
            behavior_log_prob=recorded(np.array(self._log_prob)),
        )

    def _append(self, ids: Sequence[int], log_prob: Sequence[float], *, is_action: bool) -> None:
        assert len(ids) == len(log_prob)
        self.ids += [int(i) for i in ids]
        self._log_prob += log_prob
        self._is_action += [is_action] * len(ids)
