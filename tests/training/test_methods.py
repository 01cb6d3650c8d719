"""Each method passes the right inputs to its objective."""

import numpy as np
import pytest
import torch
from test_trainer import config, episodes, trainer

from doubles.models import tiny_llama
from stepcredit import DQOConfig, DROConfig, Episode, InputError, OREOConfig
from stepcredit.episodes.episode import Tokens
from stepcredit.training.methods import METHODS

VALUED = [OREOConfig, DQOConfig, DROConfig]


def moved(run):
    """A run whose policy is not its reference and whose V is not zero."""
    with torch.no_grad():
        for p in run.model.policy.parameters():
            p.add_(0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p))
        if run.model.value is not None:
            run.model.value.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return run


def terms(folder, kind, data=None, **given):
    run = moved(trainer(folder, kind, model=tiny_llama().double(), data=data or episodes(6), **given))
    found, statistics = run._terms(
        run.model, run.data_collator([run.train_dataset[k] for k in range(len(run.train_dataset))])
    )
    return found, statistics


def test_names_and_configs_agree():
    assert {name: method.config.method for name, method in METHODS.items()} == {name: name for name in METHODS}


@pytest.mark.parametrize("kind", VALUED)
def test_a_step_moves_policy_and_value(tmp_path, kind):
    run = moved(trainer(tmp_path, kind, max_steps=1, lr_scheduler_type="constant", warmup_steps=0))
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.train()
    for part in ("policy.", "value."):
        assert any(not torch.equal(p, before[n]) for n, p in run.model.named_parameters() if n.startswith(part))
    log = run.state.log_history[0]
    assert {"loss/policy", "loss/value", "values/explained_variance"} <= set(log)


def test_dqo_at_lambda_one_without_weights_is_oreo_without_kl(tmp_path):
    for level in ("token", "step"):
        dqo, _ = terms(tmp_path, DQOConfig, lam=1.0, importance_weight=False, level=level, beta=0.2)
        oreo, _ = terms(tmp_path, OREOConfig, kl_coef=0.0, level=level, beta=0.2)
        torch.testing.assert_close(dqo.policy, oreo.policy)
        torch.testing.assert_close(dqo.value, oreo.value)


def test_oreo_with_the_sampled_kl(tmp_path):
    found, statistics = terms(tmp_path, OREOConfig, kl_coef=0.5, kl_estimator="sampled", beta=0.2)
    bare, _ = terms(tmp_path, OREOConfig, kl_coef=0.0, beta=0.2)
    log_ratio = statistics.log_prob - statistics.ref_log_prob
    mask = statistics.log_prob != 0
    kl = torch.where(mask, log_ratio.exp() * log_ratio - log_ratio.exp() + 1, 0.0).sum(-1) / mask.sum(-1)
    torch.testing.assert_close(found.policy - bare.policy, 0.5 * kl)
    exact, _ = terms(tmp_path, OREOConfig, kl_coef=0.5, beta=0.2)
    assert not torch.allclose(exact.policy, found.policy)
    with pytest.raises(InputError, match=r"kl_estimator: 'k3' is none of exact, sampled"):
        OREOConfig(output_dir=str(tmp_path), use_cpu=True, kl_estimator="k3")


def test_oreo_with_a_constant_normalizer(tmp_path):
    """The KL stays a mean; an episode's residuals are divided by the constant."""
    own, statistics = terms(tmp_path, OREOConfig, kl_coef=0.5, beta=0.2)
    constant, _ = terms(tmp_path, OREOConfig, kl_coef=0.5, beta=0.2, normalizer=3.0)
    bare, _ = terms(tmp_path, OREOConfig, kl_coef=0.0, beta=0.2)
    share = (statistics.log_prob != 0).sum(-1) / 3
    assert share.unique().numel() > 1
    torch.testing.assert_close(constant.value, own.value * share)
    torch.testing.assert_close(constant.policy, bare.policy * share + own.policy - bare.policy)
    with pytest.raises(InputError, match=r"normalizer: 0.0 must be above 0"):
        OREOConfig(output_dir=str(tmp_path), use_cpu=True, normalizer=0.0)


def test_dro_is_half_the_squared_response_residual(tmp_path):
    dro, _ = terms(tmp_path, DROConfig, beta=0.2)
    oreo, _ = terms(tmp_path, OREOConfig, kl_coef=0.0, level="response", value_level="response", beta=0.2)
    torch.testing.assert_close(dro.policy, oreo.policy / 2 / 0.2)
    torch.testing.assert_close(dro.value, oreo.value / 2)


def test_dqo_weighs_by_the_policy_that_sampled_and_by_the_reference_where_that_is_unknown(tmp_path):
    ids = np.array([*b"q", *b"ab", 257], dtype=np.int32)
    mask = np.array([False, True, True, True])
    recorded = np.array([0.0, -1.0, -2.0, -30.0], dtype=np.float32)
    data = [
        Episode(prompt="q", completion="ab", reward=1.0, prompt_id="a", tokens=Tokens(ids, mask, recorded)),
        Episode(prompt="q", completion="ab", reward=1.0, prompt_id="b"),
    ]
    weighted, statistics = terms(tmp_path, DQOConfig, data=data, beta=0.2)
    plain, _ = terms(tmp_path, DQOConfig, data=data, beta=0.2, importance_weight=False)
    ratio = (weighted.policy / plain.policy).detach()
    log_prob, ref = statistics.log_prob.sum(-1), statistics.ref_log_prob.sum(-1)
    assert ratio[0].item() == pytest.approx(np.exp(min((log_prob[0] + 33).item(), 1.0)), rel=1e-5)
    assert ratio[1].item() == pytest.approx(np.exp(min((log_prob[1] - ref[1]).item(), 1.0)), rel=1e-5)
    assert 0.5 <= weighted.metrics["weights/effective_share"].number() <= 1


def test_settings_out_of_range(tmp_path):
    with pytest.raises(InputError, match=r"lam: 1\.5 must be 1 or less"):
        config(tmp_path, DQOConfig, lam=1.5)
    with pytest.raises(InputError, match="level: 'word' is none of token, step, response"):
        config(tmp_path, DQOConfig, level="word")
    with pytest.raises(InputError, match="beta"):
        config(tmp_path, DROConfig, beta=0.0)


def test_half_precision_needs_no_gpu(tmp_path):
    """transformers refuses bf16 without one, unless it is told to use the CPU."""
    config = OREOConfig(output_dir=str(tmp_path), bf16=True)
    assert config.use_cpu is not torch.accelerator.is_available()
