"""Training stops at the first non-finite number, names it, and keeps earlier checkpoints."""

import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_batching import data as right_and_wrong
from test_trainer import episodes, trainer
from transformers import TrainerCallback

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import DPOConfig, InputError, KTOConfig, OREOConfig, SFTConfig
from stepcredit.cli import main
from stepcredit.episodes.store import append_episodes
from stepcredit.errors import NotFiniteError
from stepcredit.models.loading import load_policy, load_value_model
from stepcredit.training.methods import LossTerms, ObjectiveInputs
from stepcredit.training.optimizer_step.finite import nonfinite_flags


class Planting(TrainerCallback):
    """Spoils weights, gradients or data at an event of a step."""

    def __init__(self, event, step, spoil):
        self.event, self.step, self.spoil = event, step, spoil

    def _if_now(self, event, state, model):
        if (event, state.global_step) == (self.event, self.step):
            with torch.no_grad():
                self.spoil(model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self._if_now("begin", state, model)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self._if_now("update", state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self._if_now("end", state, model)


def policy_nan(model):
    next(model.policy.parameters())[5] = math.nan


def value_nan(model):
    model.value.score.weight.fill_(math.nan)


def value_infinite(model):
    model.value.score.weight.fill_(math.inf)


def saved(folder):
    """Every tensor file below a folder."""
    return [x for path in folder.rglob("*.safetensors") for x in load_file(path).values()]


def stopped(run):
    with pytest.raises(NotFiniteError) as caught:
        run.train()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_in(folder, kind=OREOConfig, **given):
    defaults = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    return trainer(folder, kind, **{**defaults, "per_device_train_batch_size": 2, "warmup_steps": 0, **given})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (policy_nan, "the log-probability under the policy is not finite"),
        (value_nan, "V is not finite"),
        (value_infinite, "V is not finite"),
    ],
)
@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.long), 3])
def test_nan_planted_before_a_step_stops_that_step_and_the_newest_checkpoint_goes_on(
    tmp_path, spoil, said, accumulation
):
    run = run_in(tmp_path, gradient_accumulation_steps=accumulation)
    run.add_callback(Planting("begin", 2, spoil))
    message = stopped(run)
    assert message.startswith(f"step 3: {said} on prompt")
    assert message.endswith(f"the newest checkpoint is {tmp_path / 'checkpoint-2'}")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "policy").exists()
    assert all(x.isfinite().all() for x in saved(tmp_path))
    assert all(math.isfinite(x) for row in run.state.log_history for x in row.values())
    with pytest.raises(NotFiniteError):
        run.save_model()
    assert not (tmp_path / "policy").exists()
    resumed = run_in(tmp_path, gradient_accumulation_steps=accumulation)
    resumed.train(resume_from_checkpoint=True)
    resumed.save_model()
    assert resumed.state.global_step == 6
    assert all(x.isfinite().all() for x in saved(tmp_path))


def test_five_prompts_of_a_step_are_named_and_the_others_counted(tmp_path):
    run = run_in(tmp_path, max_steps=1, per_device_train_batch_size=12)
    run.add_callback(Planting("begin", 0, policy_nan))
    assert re.search(r"is not finite on prompts (\d+, ){4}\d+ and 7 more; ", stopped(run))


def test_one_prompt_is_named_by_itself(tmp_path):
    """Prompt 7 alone has the character 7, and its embedding is spoilt."""

    def embedding(model):
        model.policy.get_input_embeddings().weight[ord("7")] = math.nan

    run = run_in(tmp_path, model=tiny_llama(tied=False), gradient_accumulation_steps=6, max_steps=1)
    run.add_callback(Planting("begin", 0, embedding))
    assert stopped(run) == (
        "step 1: the log-probability under the policy is not finite on prompt 7; "
        "training stopped and saved nothing of it, no checkpoint was written before"
    )


def test_a_gradient_that_is_not_finite_stops_the_step_before_its_update(tmp_path):
    """The loss is finite, its gradient is not; the weights stay as they were."""
    run = run_in(tmp_path, SFTConfig, max_steps=2, save_strategy="no")
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    next(run.model.policy.parameters()).register_hook(lambda gradient: gradient * math.inf)
    assert stopped(run).startswith("step 1: the gradient of policy is not finite on prompts ")
    assert all(torch.equal(p, before[n]) for n, p in run.model.named_parameters())


def test_clipping_off_does_not_switch_the_check_off(tmp_path):
    run = run_in(tmp_path, SFTConfig, max_grad_norm=0.0)
    run.add_callback(Planting("begin", 1, policy_nan))
    assert stopped(run).startswith("step 2: ")


@pytest.mark.parametrize("spoil", [policy_nan, value_infinite])
def test_nonfinite_weights_are_not_saved(tmp_path, spoil):
    """By the check of what is to be saved: no loss has seen them."""
    run = run_in(tmp_path)
    run.add_callback(Planting("end", 3, spoil))
    part = "policy" if spoil is policy_nan else "value"
    assert stopped(run).startswith(f"step 3: a weight of {part} is not finite on prompts ")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    run_in(tmp_path).train(resume_from_checkpoint=True)


def test_finite_weights_whose_outputs_are_not_are_not_saved(tmp_path):
    """Their next step would stop, and a run resumed from them could never go on."""

    def overflow(model):
        model.value.score.weight.fill_(3e38)

    run = run_in(tmp_path)
    run.add_callback(Planting("end", 3, overflow))
    assert stopped(run).startswith("step 3: V is not finite on prompt")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_last_update_is_checked_too(tmp_path):
    run = run_in(tmp_path, save_strategy="no", max_steps=2)
    run.add_callback(Planting("end", 2, policy_nan))
    assert stopped(run).startswith("step 2: a weight of policy is not finite")


@pytest.mark.parametrize("kind", [DPOConfig, KTOConfig])
def test_items_of_several_rows_are_named_by_their_prompt(tmp_path, kind):
    run = run_in(tmp_path, kind, data=right_and_wrong(), max_steps=2)
    run.add_callback(Planting("begin", 1, policy_nan))
    assert re.match(r"step 2: the log-probability under the policy is not finite on prompts? q\d", stopped(run))


def test_transformers_own_filter_changes_nothing(tmp_path):
    """It would log a NaN as a loss of zero."""
    run = run_in(tmp_path, logging_nan_inf_filter=True)
    run.add_callback(Planting("begin", 1, policy_nan))
    assert stopped(run).startswith("step 2: ")
    assert run_in(tmp_path).args.logging_nan_inf_filter is False


def on_disk(folder):
    """(a policy, episodes) for the command."""
    tiny_llama().save_pretrained(folder / "start")
    byte_tokenizer().save_pretrained(folder / "start")
    append_episodes(folder / "episodes", episodes())
    return ["--model", str(folder / "start"), "--episodes", str(folder / "episodes")]


def test_a_huge_learning_rate_stops_the_command_and_the_checkpoint_before_it_is_good(tmp_path, capsys):
    """The rate warms up from zero, so the first step changes nothing and the second everything."""
    out, again = tmp_path / "out", tmp_path / "again"
    settings = {"per_device_train_batch_size": "4", "save_strategy": "steps", "save_steps": "1", "report_to": "none",
                "use_cpu": "true", "max_steps": "8", "warmup_steps": "2"}  # fmt: skip
    flags = ["train", "--method", "oreo", *on_disk(tmp_path), *(x for k, v in settings.items() for x in (f"--{k}", v))]
    assert main([*flags, "--output_dir", str(out), "--learning_rate", "1e38"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stepcredit: error")]
    assert re.match(r"stepcredit: error: step [23]: .* is not finite on prompts? \d", line)
    assert not (out / "policy").exists()
    assert not (out / "value").exists()
    assert all(x.isfinite().all() for x in saved(out))
    (kept,) = out.glob("checkpoint-*")
    assert line.endswith(str(kept))
    flags[flags.index("--model") + 1] = str(kept / "policy")
    from_there = ["--value_model", str(kept / "value"), "--output_dir", str(again), "--learning_rate", "1e-4"]
    assert main([*flags, *from_there]) == 0
    assert all(p.isfinite().all() for p in load_policy(str(again / "policy")).parameters())
    assert all(p.isfinite().all() for p in load_value_model(str(again / "value")).parameters())


def test_it_is_an_input_error():
    assert issubclass(NotFiniteError, InputError)


def signals(rows, **given):
    """Of rows of two action columns, all finite unless given."""
    zero = torch.zeros(rows, 2)
    mask = torch.ones(rows, 2, dtype=torch.bool)
    mask[0, 1] = False
    fields = {"log_prob": zero, "ref_log_prob": zero, "kl": zero, "entropy": zero, "value": zero, "reward": zero,
              "outcome": zero[:, 0], "action_mask": mask, "step_id": mask.long(),
              "behavior_log_prob": zero}  # fmt: skip
    return ObjectiveInputs(**{**fields, **given})


@pytest.mark.parametrize("row", range(6))
def test_a_row_is_of_the_item_that_the_collator_put_it_in(row):
    """Three pairs: the first rows of all of them, then the second rows."""
    log_prob = torch.zeros(6, 2)
    log_prob[row, 0] = -math.inf
    found = nonfinite_flags(signals(6, log_prob=log_prob), [f"p{k % 3}" for k in range(6)], 3)
    assert found.prompts == ["p0", "p1", "p2"]
    assert found.bad[0].tolist() == [k == row % 3 for k in range(3)]
    assert not found.bad[1:].any()


def test_one_nonfinite_loss_is_enough_and_other_positions_are_ignored():
    value = torch.zeros(2, 2)
    value[0, 1] = math.nan  # no action
    fine, bad = torch.zeros(2), torch.tensor([0.0, math.inf])
    for policy, other in ((fine, bad), (bad, fine), (bad, None)):
        found = nonfinite_flags(signals(2, value=value), ["p", "q"], 2, LossTerms(policy, other, {}))
        assert found.kinds[-1] == "the loss"
        assert found.bad.tolist() == [[False, False]] * (len(found.kinds) - 1) + [[False, True]]
    assert not nonfinite_flags(signals(2, value=value), ["p", "q"], 2, LossTerms(fine, fine, {})).bad.any()


def test_a_loss_that_overflows_is_named(tmp_path):
    """The square of a reward of 1e30 leaves single precision, while log-probabilities and V are finite."""
    data = episodes(6)
    data[4] = replace(data[4], reward=1e30)
    message = stopped(run_in(tmp_path, data=data, gradient_accumulation_steps=3))
    assert message.startswith("step 1: the loss is not finite on prompt 4; ")
