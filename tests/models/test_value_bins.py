"""Value models that classify: saved plainly, read everywhere through one function, refused where they do not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import DQOConfig, DROConfig, Episode, InputError, IQLConfig, OfflineTrainer, OREOConfig
from stepcredit.episodes.alignment import align
from stepcredit.episodes.steps import StepRule
from stepcredit.models.heads.value_heads import values_at_positions
from stepcredit.models.loading import load_value_model, value_model_from
from stepcredit.models.scoring import values_of
from stepcredit.models.value_bins import set_value_bins, value_bins
from stepcredit.searching.scorers import Reading, ValueScorer

BINS = [-0.5, 0.0, 0.5, 1.0, 1.5]
CATEGORICAL = {"value_loss": "categorical", "value_bins": 5, "value_range": [-0.5, 1.5]}


def episodes():
    texts = ["4", "no idea", "4\nbecause 2+2=4", "5\n"]
    rows = [(f"{k}+2=", texts[k % 4], float(k % 3 == 0)) for k in range(8)]
    return [Episode(prompt=p, completion=c, reward=r, prompt_id=p) for p, c, r in rows]


def trained(folder, kind=OREOConfig, **given):
    extra = {k: given.pop(k) for k in ("peft_config", "value_peft_config", "value_model") if k in given}
    settings = {"output_dir": str(folder), "max_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0, "use_cpu": True}
    settings |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 4, **CATEGORICAL}
    run = OfflineTrainer(
        model=tiny_llama(), args=kind(**{**settings, **given}), train_dataset=episodes(),
        processing_class=byte_tokenizer(), **extra,
    )  # fmt: skip
    run.train()
    run.save_model()
    return run


def by_hand(model, ids):
    with torch.no_grad():
        p = model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
    return (p * torch.tensor(BINS)).sum(-1)


def lora(task):
    peft = pytest.importorskip("peft", reason="the peft extra is not installed")
    return peft.LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type=task)


SCHEMES = {
    "plain": {},
    "three updates, fused head, shared prompts": {
        "value_updates_per_step": 3,
        "head": "fused",
        "share_prompts": True,
    },
    "last layer": {"train_layers": 1},
    "shared trunk": {"shared_trunk": True},
    "adapters": {"adapters": True},
    "steps": {"level": "step"},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_trained_one_is_saved_plainly_and_read_alike_everywhere(tmp_path, name):
    given = dict(SCHEMES[name])
    if given.pop("adapters", False):
        given |= {"peft_config": lora("CAUSAL_LM"), "value_peft_config": lora("TOKEN_CLS")}
    run = trained(tmp_path, **given)
    saved = json.loads((tmp_path / "value" / "config.json").read_text())
    assert saved["value_bins"] == BINS
    assert saved["id2label"] == {"0": "V=-0.5", "1": "V=0", "2": "V=0.5", "3": "V=1", "4": "V=1.5"}
    assert saved["problem_type"] == "single_label_classification"
    assert saved["stepcredit"]["level"] == ("step" if name == "steps" else "token")
    assert load_file(tmp_path / "value" / "model.safetensors")["score.weight"].shape[0] == 5
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "value").eval()
    loaded = load_value_model(str(tmp_path / "value")).eval()
    trajectory = align(episodes()[2], byte_tokenizer(), StepRule(("\n",)))
    ids = trajectory.ids.tolist()
    expected = by_hand(plain, ids)
    assert expected.std() > 0
    with torch.no_grad():
        torch.testing.assert_close(values_at_positions(loaded, input_ids=torch.tensor([ids]))[0], expected)
        batch = run.data_collator([run.train_dataset[2]])
        torch.testing.assert_close(run.model.eval()(batch).value[0, -1], expected[-1], atol=1e-5, rtol=1e-4)
    (scored,) = values_of(loaded, [trajectory])
    actions = [p for p in range(len(ids)) if trajectory.action_mask[p]]
    torch.testing.assert_close(torch.tensor(scored[actions]), expected[[p - 1 for p in actions]])
    prompt, response = ids[: actions[0]], ids[actions[0] :]
    scoring, first, _ = ValueScorer(loaded).start([prompt])
    assert first[0] == pytest.approx(expected[actions[0] - 1].item(), abs=1e-6)
    finished, _ = scoring.score([Reading(0, tuple(response), True)])
    assert finished[0] == pytest.approx(expected[-2].item(), abs=1e-6)


@pytest.mark.parametrize("kind", [OREOConfig, DQOConfig, DROConfig, IQLConfig])
def test_every_method_fits_it(tmp_path, kind):
    given = {"max_steps": 30, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}
    losses = [row["loss/value"] for row in trained(tmp_path, kind, **given).state.log_history if "loss/value" in row]
    assert losses[-1] < 0.7 * losses[0]


def test_it_goes_on_bit_for_bit_and_in_a_further_run(tmp_path):
    given = {"save_strategy": "steps", "save_steps": 1}
    whole = trained(tmp_path / "out", **given)
    again = OfflineTrainer(
        model=tiny_llama(), args=whole.args, train_dataset=episodes(), processing_class=byte_tokenizer()
    )
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    for (name, ours), theirs in zip(again.model.named_parameters(), whole.model.parameters()):
        assert torch.equal(ours, theirs), name
    on = trained(tmp_path / "on", value_model=str(tmp_path / "out" / "value"), max_steps=1)
    assert value_bins(on.model.value.config) == BINS


def test_bins_of_another_run_are_refused(tmp_path):
    trained(tmp_path / "out")
    folder = str(tmp_path / "out" / "value")
    bins = r"value_model: has 5 bins from -0.5 to 1.5, unlike this run; choose --value_loss categorical --value_bins 5 "
    with pytest.raises(InputError, match=bins + r"--value_range -0.5 1.5, or leave it out"):
        trained(tmp_path / "b", value_model=folder, value_bins=6)
    with pytest.raises(InputError, match=bins):
        trained(tmp_path / "b", value_model=folder, value_loss="squared")
    squared = value_model_from(tiny_llama())
    with pytest.raises(InputError, match="value_model: gives V itself, unlike this run; choose --value_loss squared"):
        trained(tmp_path / "b", value_model=squared)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([0.0, 1.0], "has 2 value_bins for 5 labels"),
        ([0.0, 1.0, 0.5, 2.0, 3.0], "must be two or more increasing numbers"),
        ([0.0, 1.0, "2", 3.0, 4.0], "must be two or more increasing numbers"),
        ([0.0, 1.0, True, 3.0, 4.0], "must be two or more increasing numbers"),
        ("0 1", "must be two or more increasing numbers"),
        ([], "must be two or more increasing numbers"),
        (None, "a value model has one label, this one has 5 and no value_bins in its config"),
    ],
)
def test_damaged_bins_are_refused(tmp_path, entry, message):
    value_model_from(tiny_llama(), BINS).save_pretrained(tmp_path / "value")
    config = json.loads((tmp_path / "value" / "config.json").read_text())
    config["value_bins"] = entry
    (tmp_path / "value" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_value_model(str(tmp_path / "value"))


def test_a_config_without_bins_gives_v_itself():
    config = value_model_from(tiny_llama(), BINS).config
    set_value_bins(config, None)
    assert (config.num_labels, config.problem_type, value_bins(config)) == (1, "regression", None)
    set_value_bins(config, None)
    assert not hasattr(config, "value_bins")


def test_the_range_is_that_of_rewards_or_given(tmp_path):
    def bins(**given):
        return OREOConfig(output_dir=str(tmp_path), use_cpu=True, value_bins=3, value_loss="categorical", **given).bins

    assert bins(value_range=[0, 2]) == [0.0, 1.0, 2.0]
    assert bins(reward_range=[-1, 1]) == [-1.0, 0.0, 1.0]
    assert bins(reward_range=[-1, 1], value_range=[0, 2]) == [0.0, 1.0, 2.0]
    with pytest.raises(InputError, match="value_range: a categorical V needs its lowest and highest number"):
        bins()
    for wrong in ([1, 0], [0, 0], [1], [0, 1, 2]):
        with pytest.raises(InputError, match=r"value_range: .* must be two numbers, the lower one first"):
            bins(value_range=wrong)
        with pytest.raises(InputError, match="value_range"):
            OREOConfig(output_dir=str(tmp_path), use_cpu=True, value_range=wrong)
    assert OREOConfig(output_dir=str(tmp_path), use_cpu=True, value_range=[0, 1]).bins is None
