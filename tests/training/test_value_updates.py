"""Further updates of the value model in a step: against hand-written ones, in every scheme, after a restart."""

import pytest
import torch
from test_methods import moved
from test_splits import ragged
from test_trainer import config, trainer, weights

from doubles.models import tiny_llama
from stepcredit import DQOConfig, DROConfig, InputError, IQLConfig, OREOConfig, SFTConfig
from stepcredit.errors import NotFiniteError
from stepcredit.objectives.oreo import oreo_value_loss

STEADY = {"lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": 1e-2, "beta": 0.3}


def run_of(folder, kind=OREOConfig, model=None, **given):
    run = moved(trainer(folder, kind, model=model or tiny_llama(layers=2).double(), data=ragged()[:8], **given))
    run.model.value.double()
    return run


def trained(folder, kind=OREOConfig, **given):
    run = run_of(folder, kind, **given)
    run.train()
    return run


def parts_of(run):
    named = weights(run.model).items()
    return [{n: p for n, p in named if n.startswith(part)} for part in ("policy.", "value.")]


@pytest.mark.parametrize(("optim", "limit"), [("adamw_torch", 1.0), ("sgd", 0.0)])
def test_a_step_equals_a_hand_written_one(tmp_path, optim, limit):
    """Three updates of V on the same returns, whose log-ratios are those of the policy before its update."""
    given = {**STEADY, "per_device_train_batch_size": 8, "max_steps": 1, "kl_coef": 0.0}
    given |= {"optim": optim, "max_grad_norm": limit}
    run = run_of(tmp_path, value_updates_per_step=3, **given)
    by_hand = run_of(tmp_path, **given)
    rows = by_hand.data_collator([by_hand.train_dataset[k] for k in range(8)])
    _, signals = by_hand._terms(by_hand.model, rows)
    value = by_hand.model.value
    optimizer = (
        torch.optim.SGD(value.parameters(), 1e-2)
        if optim == "sgd"
        else torch.optim.AdamW(value.parameters(), 1e-2, (0.9, 0.95), weight_decay=0.0)
    )
    norms = []
    for _ in range(3):
        v = value(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1, 0]
        segment_id = torch.where(rows["action_mask"], rows["action_mask"].cumsum(-1) - 1, -1)
        log_ratio = (signals.log_prob - signals.ref_log_prob).detach()
        loss = oreo_value_loss(
            value=v, log_ratio=log_ratio, reward=signals.reward, segment_id=segment_id, beta=0.3
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(value.parameters(), limit or 1e9)))
        optimizer.step()
    run.train()
    assert min(norms) > (1.0 if limit else 0.1)  # so that clipping matters
    for (name, found), expected in zip(run.model.value.named_parameters(), value.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, msg=name)
    assert run.state.log_history[0]["grad_norm/value"] == pytest.approx(norms[0])


@pytest.mark.parametrize("kind", [OREOConfig, DQOConfig, DROConfig, IQLConfig])
def test_the_policys_first_update_is_unchanged_and_v_fits_better(tmp_path, kind):
    """Its second one sees V after all updates of the first step."""
    given = {**STEADY, "per_device_train_batch_size": 8, "max_steps": 1}
    once, often = trained(tmp_path, kind, **given), trained(tmp_path, kind, value_updates_per_step=4, **given)
    for name, p in parts_of(once)[0].items():
        assert torch.equal(parts_of(often)[0][name], p), name
    batch = once.data_collator([once.train_dataset[k] for k in range(8)])
    fitted = [run._terms(run.model, batch)[0].value.mean().item() for run in (once, often)]
    assert fitted[1] < fitted[0]
    given["max_steps"] = 2
    once, often = trained(tmp_path, kind, **given), trained(tmp_path, kind, value_updates_per_step=4, **given)
    assert any(not torch.equal(parts_of(often)[0][name], p) for name, p in parts_of(once)[0].items())


def lora(task):
    peft = pytest.importorskip("peft", reason="the peft extra is not installed")
    return peft.LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type=task)


SCHEMES = {
    "shared prompts": {"share_prompts": True, "head": "fused"},
    "precomputed": {"precompute_ref_log_probs": True},
    "recomputed": {"recompute_activations": True},
    "micro-batches": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_gives_the_plain_weights(tmp_path, name):
    given = {**STEADY, "per_device_train_batch_size": 8, "max_steps": 2, "value_updates_per_step": 2}
    given |= {"optim": "sgd", "learning_rate": 0.1}  # Adam would divide rounding errors by their size

    def run(**more):
        found = trainer(tmp_path, model=tiny_llama(layers=2).double(), data=ragged()[:8], **{**given, **more})
        found.model.value.double()
        found.train()
        return weights(found.model)

    plain = run()
    for parameter, p in run(**SCHEMES[name]).items():
        torch.testing.assert_close(p, plain[parameter], rtol=1e-5, atol=1e-8, msg=parameter)


def test_frozen_layers_stay(tmp_path):
    once, often = (
        trainer(tmp_path, data=ragged()[:8], model=tiny_llama(layers=3), train_layers=1, value_updates_per_step=n,
                **{**STEADY, "max_steps": 1})
        for n in (1, 3)
    )  # fmt: skip
    before = weights(often.model)
    once.train()
    often.train()
    for name, p in often.model.named_parameters():
        if not p.requires_grad or name.startswith("policy."):
            assert torch.equal(p, (before if not p.requires_grad else weights(once.model))[name]), name
    assert not torch.equal(often.model.value.score.weight, once.model.value.score.weight)


def test_adapters_train_and_their_shared_base_stays(tmp_path):
    once, often = (
        trainer(tmp_path, data=ragged()[:8], model=tiny_llama(), peft_config=lora("CAUSAL_LM"),
                value_peft_config=lora("TOKEN_CLS"), value_updates_per_step=n, **{**STEADY, "max_steps": 2})
        for n in (1, 3)
    )  # fmt: skip
    often.model.load_state_dict(once.model.state_dict())
    before = weights(often.model)
    once.train()
    often.train()
    different = {n for n, p in often.model.named_parameters() if not torch.equal(p, weights(once.model)[n])}
    assert any(n.startswith("value.") and "lora_B" in n for n in different)
    assert all(torch.equal(p, before[n]) for n, p in often.model.named_parameters() if not p.requires_grad)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    given = {"save_strategy": "steps", "save_steps": 1, "value_updates_per_step": 3, "max_steps": 3}
    given |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "warmup_steps": 0}

    def run(folder):
        return trainer(tmp_path / folder, data=ragged(), learning_rate=1e-2, **given)

    whole, first, again = run("whole"), run("parts"), run("parts")
    whole.train()
    first.train()
    again.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
    for (name, ours), theirs in zip(again.model.named_parameters(), whole.model.parameters()):
        assert torch.equal(ours, theirs), name


def test_an_interrupted_step_leaves_nothing_to_the_next_run(tmp_path, monkeypatch):
    given = {**STEADY, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    whole, stopped = (run_of(tmp_path, value_updates_per_step=2, **given) for _ in range(2))
    step, calls = stopped.training_step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(stopped, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    whole.train()
    stopped.train()
    for name, p in weights(whole.model).items():
        assert torch.equal(weights(stopped.model)[name], p), name


def test_an_evaluation_in_between_changes_nothing(tmp_path):
    found = []
    for evaluated in ("no", "steps"):
        run = trainer(tmp_path, data=ragged(), eval_dataset=ragged()[:5], value_updates_per_step=2,
                      eval_strategy=evaluated, eval_steps=1)  # fmt: skip
        run.train()
        found.append(weights(run.model))
    for name, p in found[0].items():
        assert torch.equal(found[1][name], p)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    run = trainer(tmp_path, data=ragged()[:4], value_updates_per_step=2, max_steps=1)
    logits = run.model.value_logits
    monkeypatch.setattr(run.model, "value_logits", lambda rows: logits(rows) * float("nan"))
    with pytest.raises(NotFiniteError, match=r"step 1: V is not finite on prompts?.*training stopped"):
        run.train()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="value_updates_per_step: must be 1 with shared_trunk"):
        config(tmp_path, value_updates_per_step=2, shared_trunk=True)
    with pytest.raises(InputError, match="value_updates_per_step: 0 must be 1 or more"):
        config(tmp_path, value_updates_per_step=0)
    assert not hasattr(config(tmp_path, SFTConfig), "value_updates_per_step")
