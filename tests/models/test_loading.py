"""Loading of models of many architectures, tied and untied, with their value models, and the errors of those that do
not fit."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoModelForCausalLM, AutoModelForTokenClassification

from doubles.models import tiny_llama
from doubles.real import real_tokenizer, smollm2_folder
from doubles.tokenizers import byte_tokenizer
from stepcredit import InputError, OfflineTrainer, OREOConfig
from stepcredit.models.actor_critic import ActorCritic
from stepcredit.models.checks import check_finite, check_reference, check_same_tokens, check_vocabulary
from stepcredit.models.heads.value_heads import values_at_positions
from stepcredit.models.loading import (
    load_policy,
    load_reference,
    load_reward_model,
    load_tokenizer,
    load_value_model,
    value_model_from,
)

SIZES = {
    "vocab_size": 259, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 257,
    "pad_token_id": 256,
}  # fmt: skip
GPT = {
    "num_layers": 2,
    "num_heads": 2,
    "attention_types": [[["global", "local"], 1]],
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "rotary_dim": 4,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WITH_VALUE = [
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "phi3", "gpt2", "gpt_neox", "starcoder2", "smollm3",
    "qwen3_moe", "mixtral",
]  # fmt: skip
WITHOUT_VALUE = ["gemma3_text", "opt", "olmo2", "cohere", "granite"]
IDS = torch.tensor([[5, 6, 7, 8, 40]])


def tiny(kind, tied):
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**SIZES, **GPT, **EXPERTS, tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [*WITH_VALUE, *WITHOUT_VALUE])
def test_a_policy_of_this_kind_loads_as_it_was(kind, tied, tmp_path):
    policy = tiny(kind, tied)
    policy.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path), tokenizer=byte_tokenizer())
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, policy(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", WITH_VALUE)
def test_its_value_model_loads_as_it_was_and_neither_is_taken_for_the_other(kind, tied, tmp_path):
    policy = tiny(kind, tied)
    value = value_model_from(policy).eval()
    head = value.score if hasattr(value, "score") else value.classifier
    torch.nn.init.normal_(head.weight)
    value.save_pretrained(tmp_path / "value")
    policy.save_pretrained(tmp_path / "policy")
    with torch.no_grad():
        before = values_at_positions(value, input_ids=IDS)
        loaded = load_value_model(str(tmp_path / "value"), tokenizer=byte_tokenizer()).eval()
        torch.testing.assert_close(values_at_positions(loaded, input_ids=IDS), before)
        plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "value", num_labels=1).eval()
        torch.testing.assert_close(plain(IDS).logits[..., 0], before)
    saved = json.loads((tmp_path / "value" / "config.json").read_text())
    assert saved["problem_type"] == "regression"
    assert "problem_type" not in json.loads((tmp_path / "policy" / "config.json").read_text())
    with pytest.raises(InputError, match="is a policy"):
        load_value_model(str(tmp_path / "policy"))
    with pytest.raises(InputError, match="is a value model"):
        load_policy(str(tmp_path / "value"))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gpt_neo", ["transformer.h.0.attn.attention.bias", "transformer.h.0.attn.attention.masked_bias"]),
        ("gptj", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gptj", ["transformer.h.0.attn.embed_positions"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"]),
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"]),
        ("llama", ["model.rotary_emb.inv_freq"]),
    ],
)
def test_buffers_saved_by_older_versions_are_not_unexpected(kind, names, tmp_path):
    policy = tiny(kind, True)
    policy.save_pretrained(tmp_path)
    add(tmp_path, {name: torch.ones(4) for name in names})
    loaded, ids = load_policy(str(tmp_path)), torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded.eval()(ids).logits, policy.eval()(ids).logits)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_attn.bias_more", "transformer.h.0.mlp.bias", "attn.bias"])
def test_a_bias_that_is_not_a_mask_is_unexpected(name, tmp_path):
    tiny("gptj", True).save_pretrained(tmp_path)
    add(tmp_path, {name: torch.ones(4)})
    with pytest.raises(InputError, match=f"unexpected weights: {name}"):
        load_policy(str(tmp_path))


def add(folder, more):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, **more}, folder / "model.safetensors", {"format": "pt"})


def test_a_tied_model_that_was_saved_with_its_head_or_in_shards(tmp_path):
    policy = tiny_llama().eval()
    policy.save_pretrained(tmp_path / "head")
    add(tmp_path / "head", {"lm_head.weight": policy.lm_head.weight.detach().clone()})
    policy.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("head", "shards"):
        with torch.no_grad():
            torch.testing.assert_close(load_policy(str(tmp_path / name))(IDS).logits, policy(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_and_nonfinite_weights_are_errors(dtype, tmp_path):
    policy = tiny_llama().to(dtype)
    policy.save_pretrained(tmp_path)
    assert load_policy(str(tmp_path)).dtype == dtype
    for number in (float("nan"), float("inf"), -float("inf")):
        with torch.no_grad():
            policy.model.layers[1].mlp.down_proj.weight[3, 5] = number
        policy.save_pretrained(tmp_path)
        with pytest.raises(InputError, match=r"NaN or infinite: model.layers.1.mlp.down_proj.weight"):
            load_policy(str(tmp_path))


def test_finite_of_every_dtype():
    model = torch.nn.ParameterDict({
        "none": torch.nn.Parameter(torch.zeros(0)),
        "whole": torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False),
        "elsewhere": torch.nn.Parameter(torch.ones(3, device="meta")),
        "eight": torch.nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False),
        "wide": torch.nn.Parameter(torch.full((3,), 1e300, dtype=torch.float64)),
    })  # fmt: skip
    check_finite(model, "here")
    model["eight"] = torch.nn.Parameter(torch.tensor([1, float("nan")]).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match="here: weights are NaN or infinite: eight;"):
        check_finite(model, "here")


# ---- vocabularies -------------------------------------------------------------------------------------


def test_a_model_may_have_more_rows_than_the_tokenizer_ids_and_no_fewer():
    for rows, fits in ((300, True), (259, True), (258, False)):
        model = tiny_llama(vocab_size=rows)
        if fits:
            check_vocabulary(model, byte_tokenizer(), "m")
        else:
            with pytest.raises(InputError, match=r"m: the tokenizer has 259 ids, but the model only 258"):
                check_vocabulary(model, byte_tokenizer(), "m")


def test_the_head_counts_as_the_embedding_does():
    model = tiny_llama(vocab_size=300, tied=False)
    model.lm_head = torch.nn.Linear(16, 200, bias=False)
    with pytest.raises(InputError, match="the model only 200"):
        check_vocabulary(model, byte_tokenizer(), "m")


@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_was_added_without_a_row_is_seen(special):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<new>", special=special)])
    with pytest.raises(InputError, match="260 ids, but the model only 259"):
        check_vocabulary(tiny_llama(), tokenizer, "m")


def test_a_stand_in_for_images_needs_no_row():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    tokenizer.image_token = "<image>"
    check_vocabulary(tiny_llama(), tokenizer, "m")


def test_the_small_gemmas_have_no_row_for_images():
    """Gemma 3 270M and 1B: 262,144 rows, and the tokenizer of the larger ones."""
    tokenizer = real_tokenizer("gemma3")
    assert len(tokenizer) == 262145
    check_vocabulary(tiny_llama(vocab_size=262144, hidden=2, layers=1), tokenizer, "gemma")
    with pytest.raises(InputError, match="262144 ids, but the model only 262143"):
        check_vocabulary(tiny_llama(vocab_size=262143, hidden=2, layers=1), tokenizer, "gemma")


def test_the_same_tokens_but_for_special_ones():
    tokenizer, renamed, longer = byte_tokenizer(), byte_tokenizer(), byte_tokenizer(merges=[("a", "b")])
    core = json.loads(renamed.backend_tokenizer.to_str())
    core["added_tokens"][2]["content"] = "<other>"
    core["model"]["vocab"]["<other>"] = core["model"]["vocab"].pop("<end>")
    renamed._tokenizer = type(renamed.backend_tokenizer).from_str(json.dumps(core))
    for one, other in ((tokenizer, tokenizer), (tokenizer, renamed), (tokenizer, longer), (longer, tokenizer)):
        check_same_tokens(one, other, "v")
    with pytest.raises(
        InputError, match=r"v: its vocabulary is not the policy's: id 259 is 'ac', the policy's is 'ab'"
    ):
        check_same_tokens(longer, byte_tokenizer(merges=[("a", "c")]), "v")


def test_tokenizers_of_different_families_differ():
    check_same_tokens(real_tokenizer("llama3"), real_tokenizer("llama3_1"), "v")
    with pytest.raises(InputError, match="its vocabulary is not the policy's"):
        check_same_tokens(real_tokenizer("qwen3"), real_tokenizer("llama3"), "v")


def test_a_folder_without_a_tokenizer_is_compared_by_rows(tmp_path):
    value_model_from(tiny_llama(vocab_size=300)).save_pretrained(tmp_path / "v")
    load_value_model(str(tmp_path / "v"), tokenizer=byte_tokenizer())
    tiny_llama(vocab_size=300).save_pretrained(tmp_path / "r")
    load_reference(str(tmp_path / "r"), tiny_llama(vocab_size=300), byte_tokenizer())
    with pytest.raises(InputError, match="r: its vocabulary is not the policy's: it has 300 tokens, the policy 259"):
        load_reference(str(tmp_path / "r"), tiny_llama(), byte_tokenizer())


def test_models_in_memory_are_held_to_the_vocabulary_too(tmp_path):
    args = OREOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    for given, message in (
        ({"model": tiny_llama(vocab_size=257)}, "^model: the tokenizer has 259 ids"),
        (
            {"value_model": value_model_from(tiny_llama(vocab_size=257))},
            "^value_model: the tokenizer has 259 ids",
        ),
        ({"ref_model": tiny_llama(vocab_size=300)}, "^ref_model: its vocabulary is not the policy's"),
    ):
        with pytest.raises(InputError, match=message):
            OfflineTrainer(**{"model": tiny_llama(), **given}, args=args, processing_class=byte_tokenizer())
    check_reference(tiny_llama(), tiny_llama(), "r")


# ---- the value model ----------------------------------------------------------------------------------


def test_a_value_model_in_half_precision_is_read_in_float32_and_trained_in_it(tmp_path):
    value = value_model_from(tiny_llama())
    torch.nn.init.normal_(value.score.weight)
    half = copy.deepcopy(value).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    loaded = load_value_model(str(tmp_path / "half"))
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        expected = loaded(IDS).logits[..., 0]
        torch.testing.assert_close(values_at_positions(loaded, input_ids=IDS), expected)
        read = values_at_positions(half, input_ids=IDS)  # its hidden states are rounded, its head is not rounded again
        assert read.dtype == torch.float32
        torch.testing.assert_close(read, half.model(IDS)[0].float() @ half.score.weight[0].float())
        torch.testing.assert_close(read, expected, atol=0.05, rtol=0.02)
    args = OREOConfig(output_dir=str(tmp_path / "o"), report_to="none", use_cpu=True)
    trainer = OfflineTrainer(model=tiny_llama(), value_model=half, args=args, processing_class=byte_tokenizer())
    assert trainer.model.value.dtype == torch.float32
    assert trainer.model.value.config.problem_type == "regression"


def test_a_value_model_from_elsewhere_is_saved_as_a_regression_too(tmp_path):
    value = value_model_from(tiny_llama())
    value.config.problem_type = None
    value.save_pretrained(tmp_path / "before")
    load_value_model(str(tmp_path / "before")).save_pretrained(tmp_path / "after")
    assert json.loads((tmp_path / "after" / "config.json").read_text())["problem_type"] == "regression"


# ---- paths and names ----------------------------------------------------------------------------------


def test_a_folder_of_an_output_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_llama().save_pretrained(tmp_path / "out" / "policy")
    (tmp_path / "out" / "polcies").mkdir()  # no model
    with pytest.raises(InputError, match=r"out/polcy: no such folder; did you mean out/policy\?$"):
        load_tokenizer("out/polcy")
    with pytest.raises(InputError, match=r"out/x: no such folder; models in out: policy$"):
        load_tokenizer("out/x")
    with pytest.raises(InputError, match=r"\./none: no such folder; models in \.: out$"):
        load_tokenizer("./none")
    with pytest.raises(InputError, match=r"out: no tokenizer here \(tokenizer.json\); give out/policy$"):
        load_tokenizer("out")


@pytest.mark.parametrize("load", [load_policy, load_value_model, load_reward_model, load_tokenizer])
@pytest.mark.parametrize("name", ["/none/here", "./none", "~/none", "one/two/three"])
def test_a_path_that_is_not_there(load, name):
    with pytest.raises(InputError, match=f"{name}: no such folder"):
        load(name)


@pytest.mark.parametrize("name", ["owner/none", "none"])
@pytest.mark.parametrize("load", [load_policy, load_value_model, load_reward_model, load_tokenizer])
def test_a_name_that_is_not_on_the_hub_is_one_line(load, name):
    what = r"(a (policy|value model|reward model|tokenizer)|its config)"
    offline = r"nor can " + what + r" be loaded from the hub \(HF_HUB_OFFLINE is set\): "
    with pytest.raises(InputError, match=f"^{name}: no such folder; {offline}") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_run_s_folder_and_a_file_are_no_models(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "policy")
    with pytest.raises(InputError, match=r"no config.json here \(its policy/ folder has one\)"):
        load_policy(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        load_policy(str(tmp_path / "policy" / "model.safetensors"))


def test_code_of_its_own_is_asked_for_by_name(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="its own code can be run with --trust_remote_code"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("policy", "model.layers.1.mlp.up_proj.weight", "policy: weights are missing: model.layers.1.mlp.up_proj"),
        ("value", "score.weight", "value: weights are missing: score.weight"),
        ("value", None, "value: is a policy"),
        ("policy", "", "policy: model.safetensors is empty"),
    ],
)
def test_a_damaged_checkpoint_is_refused(part, name, message, tmp_path):
    both = ActorCritic(tiny_llama(), value_model_from(tiny_llama()))
    both.save_checkpoint(tmp_path)
    both.load_checkpoint(tmp_path)
    weights = tmp_path / part / "model.safetensors"
    if name is None:
        tiny_llama().save_pretrained(tmp_path / part)
    elif name:
        save_file({n: w for n, w in load_file(weights).items() if n != name}, weights, {"format": "pt"})
    else:
        weights.write_bytes(b"")
    with pytest.raises(InputError, match=message):
        both.load_checkpoint(tmp_path)


@pytest.mark.long
def test_a_published_model_loads_with_its_value_model(tmp_path):
    folder = str(smollm2_folder())
    tokenizer = load_tokenizer(folder)
    policy = load_policy(folder, tokenizer=tokenizer)
    with pytest.raises(InputError, match="is a policy"):
        load_value_model(folder, tokenizer=tokenizer)
    value_model_from(policy).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    value = load_value_model(str(tmp_path), tokenizer=tokenizer)
    with torch.no_grad():
        assert values_at_positions(value, input_ids=IDS).abs().max() == 0
    load_reference(folder, policy, tokenizer)
    with torch.no_grad():
        policy.model.layers[29].mlp.up_proj.weight[1535, 575] = float("nan")
    with pytest.raises(InputError, match=r"model.layers.29.mlp.up_proj.weight"):
        check_finite(policy, folder)
