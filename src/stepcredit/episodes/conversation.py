"""A chat between a policy and an environment as token ids, turn by turn.

The ids that were sampled are kept as they are; the text of the others, prompt and observations, is tokenised once.
What the chat template writes between the end of a reply and the next open turn is an observation:

    ids        <user> hi <end> \\n <assistant>   go <end>   \\n <user> wall <end> \\n <assistant>   left <end>
    is action    -    -    -    -      -        yes  yes     -    -     -    -    -      -        yes   yes
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepcredit.episodes.encoding import continuation_ids, prompt_ids, response_text
from stepcredit.episodes.episode import Message, Tokens
from stepcredit.episodes.turns import Tokenizer, TurnEnds, observation_after_reply, turn_ends


class Conversation:
    """The ids that a policy reads and samples, where it is the assistant and an environment the user.

    Args:
        prompt: the messages before the first reply.
        tokenizer: of the policy, with a chat template.
        ends: what ends a reply; by default what the tokenizer says of it.

    Attributes:
        prompt: the messages before the first reply.
        completion: the messages from the first reply on.
        ids: token ids so far, up to where the next reply begins, or to the end of the last one.

    Raises:
        InputError: no chat template.
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
        """How many replies there are so far."""
        return sum(message["role"] == "assistant" for message in self.completion)

    def reply(self, ids: Sequence[int], log_prob: Sequence[float]) -> str:
        """Append what the policy sampled; its text, without the token that ends the turn.

        Args:
            ids: the sampled ids, the end token included where there is one.
            log_prob: log μ(a|s) of each.
        """
        text = response_text(ids, self._tokenizer, self._ends)
        self.completion.append({"role": "assistant", "content": text})
        self._append(ids, log_prob, is_action=True)
        return text

    def observe(self, text: str, ids: list[int] | None = None) -> list[int]:
        """Append the user's answer to the last reply; the ids that it adds.

        Args:
            text: what the user says.
            ids: of the answer, where `observation_ids` has told them already.
        """
        ids = self.observation_ids(text) if ids is None else ids
        self.completion.append({"role": "user", "content": text})
        self._append(ids, [0.0] * len(ids), is_action=False)
        return ids

    def observation_ids(self, text: str) -> list[int]:
        """The ids that an answer would add: from the end of the last reply to where the next one begins.

        Where the policy did not end its reply with the template's own end of turn (but at a stop string, or with
        another end token), that comes first.

        Raises:
            InputError: the template leaves out a reply once it is answered.
        """
        written = observation_after_reply(self.prompt, text, self._tokenizer)
        if self.ids[-1] == self._ends.of_chat:
            written = written.removeprefix(self._ends.chat_end)
        return continuation_ids(self.ids, written, self._tokenizer)

    def tokens(self) -> Tokens:
        """The ids so far, which of them are actions, and the log-probabilities that were given with those.

        Raises:
            InputError: there was no reply yet.
        """
        return Tokens(
            ids=np.array(self.ids, dtype=np.int32),
            action_mask=np.array(self._is_action, dtype=np.bool_),
            behavior_log_prob=np.array(self._log_prob, dtype=np.float32),
        )

    def _append(self, ids: Sequence[int], log_prob: Sequence[float], *, is_action: bool) -> None:
        assert len(ids) == len(log_prob)
        self.ids += [int(i) for i in ids]
        self._log_prob += log_prob
        self._is_action += [is_action] * len(ids)
