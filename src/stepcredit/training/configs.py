"""The training configs, one per method; field names follow transformers and TRL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from stepcredit.episodes.alignment import Level
from stepcredit.errors import InputError, quoted
from stepcredit.flags import flag
from stepcredit.settings import Limits
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.verdict import REWARD_THRESHOLD


@dataclass
class SFTConfig(OfflineConfig):
    """Supervised fine-tuning on every episode, whatever its reward."""

    method: ClassVar[str] = "sft"
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate of the policy."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the episodes."})


@dataclass
class LabelConfig(OfflineConfig):
    """Settings of the methods that only distinguish right from wrong responses."""

    reward_threshold: float = field(
        default=REWARD_THRESHOLD,
        metadata=flag(
            "reward_threshold",
            "Logs that label steps alone have no outcome; add one in a column reward or label.",
        ),
    )


@dataclass
class RFTConfig(LabelConfig):
    """Rejection sampling: supervised fine-tuning on the right responses."""

    method: ClassVar[str] = "rft"


@dataclass
class DPOConfig(LabelConfig):
    """DPO (arXiv 2305.18290) on pairs of a right and a wrong response to one prompt, drawn from unpaired episodes."""

    method: ClassVar[str] = "dpo"
    learning_rate: float = field(default=5e-7, metadata={"help": "Peak learning rate of the policy."})
    beta: Annotated[float, Limits(above=0)] = field(default=0.1, metadata={"help": "Pull towards the reference."})
    max_pairs_per_prompt: Annotated[int, Limits(at_least=1)] = field(
        default=6, metadata={"help": "At most so many pairs of each prompt."}
    )


@dataclass
class KTOConfig(LabelConfig):
    """KTO (arXiv 2402.01306) on unpaired right and wrong responses, with a KL baseline averaged over the mismatched
    responses of the whole optimizer step."""

    method: ClassVar[str] = "kto"
    learning_rate: float = field(default=5e-8, metadata={"help": "Peak learning rate of the policy."})
    beta: Annotated[float, Limits(above=0)] = field(default=0.1, metadata={"help": "Pull towards the reference."})
    desirable_weight: Annotated[float, Limits(at_least=0)] = field(
        default=1.0, metadata={"help": "Weight of right responses."}
    )
    undesirable_weight: Annotated[float, Limits(at_least=0)] = field(
        default=1.0, metadata={"help": "Weight of wrong responses."}
    )


@dataclass
class TOPRConfig(LabelConfig):
    """TOPR (arXiv 2503.14286): off-policy REINFORCE, with truncated importance ratios on wrong responses and without
    a reference. Episodes must have log-probabilities of the behaviour policy."""

    method: ClassVar[str] = "topr"


@dataclass
class OAPLConfig(OfflineConfig):
    """OAPL (arXiv 2602.19362) and A*-PO (2505.20686): one regression per response onto r - V̂(x), where V̂(x) is the
    log-mean-exp of the rewards of all responses to the prompt."""

    method: ClassVar[str] = "oapl"
    beta: Annotated[float, Limits(above=0)] = field(
        default=0.03, metadata={"help": "β_2, pull towards the reference, in units of reward."}
    )
    value_beta: Annotated[float | None, Limits(above=0)] = field(
        default=None,
        metadata={
            "help": "β_1 of V̂ = β_1 log mean exp(r/β_1) over a prompt's responses: near 0 the best reward, large "
            "their mean. Default: beta, with which the best policy is exactly that of the KL-regularised reward.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split_turns:
            raise InputError("a later turn is a prompt with a single response, so that r - V̂ is zero; oapl trains on "
                             "whole conversations", "split_turns")  # fmt: skip


@dataclass
class ValueConfig(OfflineConfig):
    """Settings of the methods that train a value model with the policy."""

    trains_value: ClassVar[bool] = True
    beta: Annotated[float, Limits(above=0)] = field(
        default=0.03, metadata={"help": "Pull towards the reference, in units of reward."}
    )
    value_learning_rate: Annotated[float | None, Limits(at_least=0)] = field(
        default=None, metadata={"help": "Peak learning rate of the value model; default: learning_rate."}
    )
    value_loss: str = field(
        default="squared",
        metadata={
            "help": "How V is fitted to its targets: squared, or categorical: V is the mean of bins under a softmax, "
            "fitted by cross-entropy with two-hot targets.",
            "choices": ["squared", "categorical"],
        },
    )
    value_bins: Annotated[int, Limits(at_least=2)] = field(
        default=51, metadata={"help": "Bins of a categorical V, evenly spaced over value_range."}
    )
    value_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "Lowest and highest V of a categorical V; returns beyond them count as these. Default: "
            "reward_range; one of the two must be given. The optimal V lies between the lowest and the highest return."
        },
    )
    value_coef: Annotated[float, Limits(at_least=0)] = field(
        default=1.0,
        metadata={"help": "Weight of the value loss; it does not change the policy's update."},
    )
    value_updates_per_step: Annotated[int, Limits(at_least=1)] = field(
        default=1,
        metadata={
            "help": "Updates of the value model on each batch; the first one is made with the policy's, which uses V "
            "from before all of them."
        },
    )
    shared_trunk: bool = field(
        default=False,
        metadata={
            "help": "V is a linear map of the policy's last hidden states, which it trains too, not a model of its "
            "own; saved as a whole value model."
        },
    )
    value_warmup_steps: Annotated[int, Limits(at_least=0)] = field(
        default=0,
        metadata={"help": "Optimizer steps at the start in which only the value model learns."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared_trunk and self.value_updates_per_step > 1:
            raise InputError("must be 1 with shared_trunk, where an update of V changes the policy",
                             "value_updates_per_step")  # fmt: skip
        self.bins  # noqa: B018 - raises where there are none

    @property
    def bins(self) -> list[float] | None:
        """The bins of V; None where it is fitted by squares.

        Raises:
            InputError: their range is missing, or no range.
        """
        limits = self.reward_range if self.value_range is None else self.value_range
        if self.value_range is not None and (len(self.value_range) != 2 or self.value_range[0] >= self.value_range[1]):
            raise InputError(f"{quoted(self.value_range)} must be two numbers, the lower one first", "value_range")
        if self.value_loss == "squared":
            return None
        if limits is None:
            raise InputError("a categorical V needs its lowest and highest number, such as 0 1", "value_range")
        low, high = map(float, limits)
        return [low + (high - low) * k / (self.value_bins - 1) for k in range(self.value_bins)]


@dataclass
class OneLevelConfig(ValueConfig):
    """Settings of the methods whose policy and value losses have the same level."""

    level: str = field(
        default="token", metadata={"help": "What counts as one action.", "choices": ["token", "step", "response"]}
    )

    @property
    def segments(self) -> Level:
        """The level of both losses."""
        return self.level  # type: ignore[return-value]

    @property
    def value_segments(self) -> Level:
        """The level of the value loss."""
        return self.segments


@dataclass
class IQLConfig(OneLevelConfig):
    """IQL (arXiv 2110.06169), as in Q-Evolve (2606.07367): an expectile value function, and a policy that imitates
    actions weighted by exp(advantage / β); without a reference."""

    method: ClassVar[str] = "iql"
    beta: Annotated[float, Limits(above=0)] = field(
        default=0.3,
        metadata={"help": "Temperature of the weights exp(advantage/β), in units of reward; 1/β is the paper's β."},
    )
    expectile: Annotated[float, Limits(above=0, below=1)] = field(
        default=0.7,
        metadata={"help": "Expectile of the returns that V is, the paper's τ: 0.5 their mean, near 1 the best."},
    )
    lam: Annotated[float, Limits(at_least=0, at_most=1)] = field(
        default=1.0,
        metadata={
            "help": "λ of the λ-return: 1 the full return, 0 one step and V, as in the paper. Below 1, a reward at the "
            "end reaches about 1/(1-λ) actions back in an update, too few where a response has hundreds.",
        },
    )
    max_weight: Annotated[float, Limits(above=0)] = field(
        default=100.0, metadata={"help": "Largest weight of an action."}
    )


@dataclass
class OREOConfig(ValueConfig):
    """OREO (arXiv 2412.16145): policy and value function satisfy the soft Bellman equation together."""

    method: ClassVar[str] = "oreo"
    kl_coef: Annotated[float, Limits(at_least=0)] = field(
        default=0.01, metadata={"help": "α, weight of the KL to the reference."}
    )
    kl_estimator: str = field(
        default="exact",
        metadata={
            "help": "The KL at each state: exact, over the whole vocabulary, or sampled, from the action taken "
            "(unbiased where the reference wrote the episodes).",
            "choices": ["exact", "sampled"],
        },
    )
    normalizer: Annotated[float | None, Limits(above=0)] = field(
        default=None,
        metadata={
            "help": "What the sum of an episode's squared residuals is divided by; default: their number, as in the "
            "paper, which makes V too high where the lost episodes are the long ones. The mean number of an episode's "
            "segments keeps the scale.",
        },
    )
    level: str = field(
        default="token",
        metadata={"help": "What counts as one action of the policy loss.", "choices": ["token", "step", "response"]},
    )
    value_level: str | None = field(
        default=None,
        metadata={
            "help": "Likewise of the value loss; default: level, but token at response level.",
            "choices": ["token", "step", "response"],
        },
    )

    @property
    def policy_segments(self) -> Level:
        """The level of the policy loss."""
        return self.level  # type: ignore[return-value]

    @property
    def value_segments(self) -> Level:
        """The level of the value loss: token/token, step/step, response/token unless set."""
        default = "token" if self.level == "response" else self.level
        return self.value_level or default  # type: ignore[return-value]


@dataclass
class DQOConfig(OneLevelConfig):
    """DQO (arXiv 2410.09302): a soft Q-function fitted by λ-returns, weighted towards the current policy."""

    method: ClassVar[str] = "dqo"
    lam: Annotated[float, Limits(at_least=0, at_most=1)] = field(
        default=1.0,
        metadata={"help": "λ of the λ-return: 1 the full return, 0 one step and V."},
    )
    importance_weight: bool = field(
        default=True, metadata={"help": "Weigh episodes by exp(min(Σ log π/μ, 1)); off: equally."}
    )


@dataclass
class DROConfig(ValueConfig):
    """DRO-V (arXiv 2405.19107): one regression per response, with a value of the prompt; `beta` is the paper's τ."""

    method: ClassVar[str] = "dro"
    value_segments: ClassVar[Level] = "response"
