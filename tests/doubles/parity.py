"""A task of one word, so small that a policy for it is made in a second: is the sum of four digits even or odd?"""

from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.experiments.initial_policy import small_run, train_and_save
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.arithmetic import PARITY, Arithmetic, groups_of
from stepcredit.tasks.digits import digit_problems
from stepcredit.tasks.task import Grade, TaskDefaults
from stepcredit.training.configs import SFTConfig
from stepcredit.verdict import Verdict


class Parity(TaskDefaults):
    name = "parity"
    version = "1"
    max_new_tokens = 4

    def problems(self, split, count=None, seed=0):
        return digit_problems(["digits"], 1, 4, self.answer, split, count, seed)

    def grade(self, problem, response):
        said = response.strip()
        return Grade(Verdict.RIGHT if said == problem.answer else Verdict.WRONG, said, "one word")

    @staticmethod
    def answer(prompt):
        return PARITY[sum(groups_of(prompt)[0]) % 2]


def guessing_policy(out):
    """Writes a policy that says one of the two words, whatever the digits, to `policy/` in a folder."""
    tokenizer = Arithmetic().tokenizer()
    said = [
        Episode(prompt=p.text, completion=f" {PARITY[k % 2]}", reward=1.0, prompt_id=p.prompt_id,
                stop_reason=StopReason.STOP)
        for k, p in enumerate(Parity().problems("train", 64, 0))
    ]  # fmt: skip
    settings = small_run(out, 0, max_steps=40, learning_rate=2e-2, per_device_train_batch_size=16)
    train_and_save(policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), 0), SFTConfig(**settings), said, tokenizer)
    return out / "policy"
