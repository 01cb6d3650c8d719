"""Prompts read once, frozen parts computed once, the fused head: the losses and gradients of the plain pass."""

import json

import pytest
import torch
from peft import LoraConfig
from test_methods import moved
from test_splits import METHODS_AND_VARIANTS, VARIANTS, Gradients, ragged
from test_trainer import config
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, OfflineTrainer, OREOConfig, SFTConfig
from stepcredit.episodes.alignment import collate
from stepcredit.episodes.prefixes import collate_shared
from stepcredit.errors import InputError
from stepcredit.models.bodies.passes import base_of, freeze_all_but, hidden_states, run, sequences, split
from stepcredit.models.heads.value_heads import TrunkValue

SCHEMES = {
    "shared prompts": {"share_prompts": True},
    "precomputed reference": {"precompute_ref_log_probs": True},
    "fused head": {"head": "fused"},
    "recomputed activations": {"recompute_activations": True},
}
ALL = {name: setting for scheme in SCHEMES.values() for name, setting in scheme.items()}
ONE_OF_A_KIND = ("sft", "dpo", "kto", "dqo", "oreo", "oreo, steps", "oreo, sampled KL")
LAYERS = {
    "last layers": {"train_layers": 2},
    "last layers, shared prompts, fused head": {
        "train_layers": 2,
        "share_prompts": True,
        "head": "fused",
        "recompute_activations": True,
    },
}


def policy():
    return tiny_llama(layers=3).double()


def whole_steps(folder, name, freeze=False, data=None, **given):
    """(the logs, the gradients) of a run in which every step holds all items, from a policy unlike its reference."""
    kind, own = VARIANTS[name]
    reference = moved(Pair(policy())).model.policy
    settings = {"max_steps": 2, "warmup_steps": 0, "learning_rate": 1e-2, "max_grad_norm": 0.0}
    settings = {"per_device_train_batch_size": 64, **settings, **own, **given}
    run = OfflineTrainer(
        model=policy(),
        ref_model=reference,
        args=config(folder, kind, per_device_eval_batch_size=5, **settings),
        train_dataset=data or ragged(),
        eval_dataset=ragged()[:13],
        processing_class=byte_tokenizer(),
    )
    if run.model.value is not None and not isinstance(run.model.value, TrunkValue):
        run.model.value.double()
        run.model.value.score.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    if freeze:
        for part in run.model.parts().values():
            freeze_all_but(base_of(part), 2)
            if hasattr(part, "lm_head"):
                part.lm_head.requires_grad_(False)
    gradients = Gradients()
    run.add_callback(gradients)
    run.train()
    run.evaluate()
    timed = ("runtime", "per_second", "flos")
    logs = [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in run.state.log_history]
    return logs, gradients.steps, run


class Pair:
    """What `moved` reads of a trainer."""

    def __init__(self, policy):
        self.model = type("Models", (), {"policy": policy, "value": None})


def assert_close(found, expected, tolerance=1e-6):
    assert len(found[0]) == len(expected[0])
    for ours, theirs in zip(found[0], expected[0]):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=1e-9)
    assert len(found[1]) == len(expected[1]) == 2
    for ours, theirs in zip(found[1], expected[1]):
        assert ours.keys() == theirs.keys()
        assert max(x.abs().max() for x in theirs.values()) > 1e-4
        for parameter, gradient in theirs.items():
            assert (ours[parameter] - gradient).norm() <= tolerance * gradient.norm(), parameter


@pytest.mark.parametrize("name", METHODS_AND_VARIANTS)
def test_all_schemes_together_give_the_losses_gradients_and_metrics_of_the_plain_pass(tmp_path, name):
    expected = whole_steps(tmp_path / "plain", name, head="naive")
    assert_close(whole_steps(tmp_path / "all", name, **ALL), expected)


@pytest.mark.long
@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_every_scheme_by_itself_gives_them(tmp_path, name):
    expected = whole_steps(tmp_path / "plain", name, head="naive")
    for scheme, given in SCHEMES.items():
        assert_close(whole_steps(tmp_path / scheme, name, **given), expected)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_last_layers_on_kept_states_train_as_the_whole_model_with_the_others_frozen(tmp_path, name):
    expected = whole_steps(tmp_path / "plain", name, freeze=True)
    for number, given in enumerate(LAYERS.values()):
        found = whole_steps(tmp_path / str(number), name, **given)
        assert_close(found, expected)
        assert found[2].model.reference is None


# ---- fewer bodies -----------------------------------------------------------------------------------------


def lora(**given):
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], **given)


def run_of(folder, kind=OREOConfig, data=None, **given):
    peft = {name: given.pop(name) for name in ("peft_config", "value_peft_config") if name in given}
    return OfflineTrainer(
        model=given.pop("model", None) or tiny_llama(layers=3),
        args=config(folder, kind, per_device_train_batch_size=8, max_steps=2, learning_rate=1e-2, **given),
        train_dataset=data or ragged(),
        processing_class=byte_tokenizer(),
        **peft,
    )


def test_two_adapters_on_one_trunk_hold_its_weights_once_and_give_the_same_numbers(tmp_path):
    both = {"peft_config": lora(), "value_peft_config": lora()}
    torch.manual_seed(0)
    run = run_of(tmp_path / "shared", **both)
    policy_weights = {p.data_ptr() for p in base_of(run.model.policy).parameters() if not p.requires_grad}
    value_weights = {p.data_ptr() for p in base_of(run.model.value).parameters() if not p.requires_grad}
    assert policy_weights == value_weights
    torch.manual_seed(0)
    apart = run_of(tmp_path / "apart", **both)
    for part in base_of(apart.model.value).modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and not weight.requires_grad:
                part._parameters[name] = torch.nn.Parameter(weight.clone(), requires_grad=False)
    run.train()
    apart.train()
    assert run.state.log_history[0]["loss"] == apart.state.log_history[0]["loss"]
    run.save_model()
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "shared" / "value")
    batch = collate(run.train_dataset.trajectories, 256)
    expected = run.model.eval()(batch.to_dict()).value
    found = value(batch.input_ids, attention_mask=batch.attention_mask).logits[..., 0]
    torch.testing.assert_close(
        found[:, :-1][batch.action_mask], expected[:, :-1][batch.action_mask], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("peft", [{}, {"peft_config": lora()}])
@pytest.mark.parametrize("more", [{}, {"train_layers": 2, "share_prompts": True, "head": "fused"}])
def test_a_value_head_on_the_policys_trunk_trains_and_is_saved_as_a_whole_value_model(tmp_path, peft, more):
    run = run_of(tmp_path, shared_trunk=True, **peft, **more)
    assert [p.numel() for p in run.model.value.parameters()] == [16]
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.train()
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert "value.score.weight" in changed
    assert any(name.startswith("policy.") for name in changed)
    assert not any("layers.0." in name for name in changed if more)
    run.save_model()
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    for ours, theirs in zip(policy.model.parameters(), value.model.parameters()):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(value.score.weight, run.model.value.score.weight)
    resumed = run_of(tmp_path, shared_trunk=True, **peft, **{**more, "save_strategy": "steps", "save_steps": 1})
    resumed.train()
    at_end = {name: p.detach().clone() for name, p in resumed.model.named_parameters()}
    again = run_of(tmp_path, shared_trunk=True, **peft, **more)
    again._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    for name, p in again.model.named_parameters():
        if p.requires_grad:
            assert torch.equal(p, at_end[name]), name


def test_a_trunk_value_takes_no_value_model(tmp_path):
    with pytest.raises(InputError, match="cannot be used with shared_trunk"):
        run_of(tmp_path, shared_trunk=True, value_peft_config=lora())


# ---- what is kept ---------------------------------------------------------------------------------------


def test_kept_states_are_shared_by_runs_and_computed_once(tmp_path):
    kept = {"train_layers": 1, "activation_cache": str(tmp_path / "kept")}
    run_of(tmp_path / "a", **kept).train()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("rows.bin")}
    assert {path.parent.name.split("-")[0] for path in files} == {"states", "ref_states"}
    run_of(tmp_path / "b", seed=7, **kept).train()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("rows.bin")} == files
    run_of(tmp_path / "c", SFTConfig, **kept).train()  # no reference, and the same states
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("rows.bin")} == files
    run_of(tmp_path / "d", model=tiny_llama(layers=3, seed=5), **kept).train()  # another model: other folders
    assert len(list((tmp_path / "kept").rglob("rows.bin"))) == 4


def test_an_interrupted_computation_goes_on_and_gives_the_same_numbers(tmp_path):
    run = run_of(tmp_path / "a", train_layers=1)
    run.train()
    (rows,) = (tmp_path / "a" / "activations").glob("states-*/rows.bin")
    whole = rows.read_bytes()
    index = rows.with_name("index.jsonl")
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:3]) + lines[3][:5])  # killed while it wrote the fourth line
    again = run_of(tmp_path / "a", train_layers=1)
    again.train()
    assert sorted(index.read_text().splitlines()) == sorted(line.strip() for line in lines)
    assert len(rows.read_bytes()) == len(whole)
    assert again.state.log_history[0]["loss"] == pytest.approx(run.state.log_history[0]["loss"], rel=1e-5)


def test_rows_of_other_weights_or_cut_rows_are_refused(tmp_path):
    run_of(tmp_path / "a", train_layers=1).train()
    (rows,) = (tmp_path / "a" / "activations").glob("states-*/rows.bin")
    manifest = rows.with_name("manifest.json")
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**about, "weights": "others"}))
    with pytest.raises(InputError, match="is stale: computed with another weights"):
        run_of(tmp_path / "a", train_layers=1).train()
    manifest.write_text(json.dumps(about))
    data = rows.read_bytes()
    rows.write_bytes(data[:-4])
    with pytest.raises(InputError, match="is shorter than its index says"):
        run_of(tmp_path / "a", train_layers=1).train()
    rows.write_bytes(bytes(len(data)))
    with pytest.raises(InputError, match="last layers on precomputed states differ"):
        run_of(tmp_path / "a", train_layers=1).train()


def test_states_in_bfloat16_are_half_the_size_and_their_error_is_told(tmp_path):
    wide, narrow = (
        run_of(tmp_path / "a", train_layers=1),
        run_of(tmp_path / "b", train_layers=1, activation_dtype="bfloat16"),
    )
    wide.train()
    narrow.train()
    sizes = [next((tmp_path / n / "activations").glob("states-*/rows.bin")).stat().st_size for n in "ab"]
    assert sizes[0] == 2 * sizes[1]
    assert "kept as torch.bfloat16, relative error" in " ".join(narrow.notes)
    assert narrow.state.log_history[0]["loss"] == pytest.approx(wide.state.log_history[0]["loss"], rel=0.02)


def test_episodes_that_come_after_the_reference_has_been_trained_are_refused(tmp_path):
    run = run_of(tmp_path, precompute_ref_log_probs=True)
    run.train()
    late = run._prepare([Episode(prompt="other", completion="1", reward=1.0, prompt_id="o")], run.processing_class,
                        run.args, run.model.policy)  # fmt: skip
    with pytest.raises(InputError, match="the reference was not computed before training"):
        run.evaluate(late)


def test_too_many_layers_and_an_adapter_elsewhere_are_refused(tmp_path):
    with pytest.raises(InputError, match="LlamaModel has 3 layers; choose from 1 to 2"):
        run_of(tmp_path, train_layers=3)
    with pytest.raises(InputError, match="the adapter also changes what lies before the last 1 layers"):
        run_of(tmp_path, SFTConfig, train_layers=1, peft_config=lora(layers_to_transform=[0]))
    with pytest.raises(InputError, match="gradient checkpointing"):
        run_of(tmp_path, share_prompts=True, activation_checkpointing=True)


# ---- bodies -----------------------------------------------------------------------------------------------


def shared_batch():
    from stepcredit.training.data import prepare
    from stepcredit.training.methods import METHODS

    return collate_shared(prepare(ragged(), byte_tokenizer(), OREOConfig("out"), METHODS["oreo"]).trajectories, 256)


def test_rows_with_a_shared_prefix_read_as_whole_rows():
    body, batch = policy().model, shared_batch()
    assert batch["prefix"]["input_ids"].shape[0] == 4
    assert len({int(n) for n in batch["prefix"]["attention_mask"].sum(-1)}) == 4  # prompts of four lengths
    shared, whole = (hidden_states(body, sequences(batch), way) for way in ("shared", "whole"))
    there = batch["attention_mask"].bool()
    torch.testing.assert_close(shared[there], whole[there], rtol=1e-6, atol=1e-7)
    batch["prefix"]["input_ids"][0, 0] += 1
    assert not torch.allclose(hidden_states(body, sequences(batch))[batch["prefix_row"] == 0],
                              shared[batch["prefix_row"] == 0], atol=1e-4)  # fmt: skip


def test_the_last_layers_go_on_from_what_the_first_ones_return():
    body, batch = policy().model, shared_batch()
    first, last = split(body, 1)
    assert sum(p.numel() for p in last.layers.parameters()) * 3 == sum(p.numel() for p in body.layers.parameters())
    prefix, rows = run(first, sequences(batch))
    found = hidden_states(last, sequences(batch)._replace(tokens=rows, prefix=prefix))
    assert torch.equal(found, hidden_states(body, sequences(batch)))


def test_checkpointed_activations_give_the_same_gradients(tmp_path):
    expected = whole_steps(tmp_path / "plain", "oreo")
    assert_close(whole_steps(tmp_path / "less", "oreo", activation_checkpointing=True, head="fused"), expected)


def test_accumulated_micro_batches_that_cut_a_prompt_apart_give_the_same_step(tmp_path):
    expected = whole_steps(tmp_path / "plain", "oreo, steps")
    split = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 6, "share_prompts": True, "head": "fused"}
    found = whole_steps(tmp_path / "split", "oreo, steps", precompute_ref_log_probs=True, **split)
    assert_close(found, expected)
