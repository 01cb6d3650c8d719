"""Models that are damaged, unfit or foreign, through the command line: one line with the folder, exit code 2, nothing
written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode
from stepcredit.cli import main
from stepcredit.episodes.store import append_episodes
from stepcredit.models.loading import load_policy, value_model_from

EMBEDDING, UP, HEAD = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with policy/, tied/, value/, reward/ and episodes/, all of which load."""
    root, tokenizer = tmp_path_factory.mktemp("good"), byte_tokenizer()
    policy = tiny_llama(tied=False)
    for name, model in {
        "policy": policy,
        "tied": tiny_llama(),
        "value": value_model_from(policy),
        "reward": classifier(1, AutoModelForSequenceClassification)(),
    }.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    rows = [Episode(prompt=f"{i}+2=", completion="4", reward=float(i == 2), prompt_id=str(i)) for i in range(4)]
    append_episodes(root / "episodes", rows)
    return root


# ---- what is done to a folder -------------------------------------------------------------------------


def weights(change):
    """Change the weights, a dict, and write them back."""

    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def without(key):
    return weights(lambda tensors: tensors.pop(key))


def spoilt(key, number):
    return weights(lambda tensors: tensors[key].view(-1)[3:4].fill_(number))


def put(key, shape):
    return weights(lambda tensors: tensors.update({key: torch.zeros(shape)}))


def file(name, content):
    def damage(folder):
        (folder / name).write_bytes(content)

    return damage


def cut(name, keep):
    def damage(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(keep * len(whole))])

    return damage


def gone(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def config(**settings):
    def damage(folder):
        read = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**read, **settings}))

    return damage


def instead(model, tokenizer=None):
    """Another model in the folder, and another tokenizer if one is given."""

    def damage(folder):
        shutil.rmtree(folder)
        model().save_pretrained(folder)
        (tokenizer or byte_tokenizer)().save_pretrained(folder)

    return damage


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder):
    """Two shards, one of which is gone."""
    model = load_policy(str(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    max(folder.glob("model-*.safetensors")).unlink()


def few_rows():
    model = tiny_llama(tied=False)
    model.resize_token_embeddings(200)
    model.config.pad_token_id = model.config.eos_token_id = 0
    return model


def few_rows_of_value():
    return value_model_from(few_rows())


def larger_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["hello", "world"])
    return tokenizer


def other_tokenizer():
    """As many tokens, other ids: the letters a and b change places."""
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = core["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(core))
    return tokenizer


def classifier(labels, auto=AutoModelForTokenClassification):
    def make():
        config = tiny_llama().config
        config.num_labels = labels
        return auto.from_config(config)

    return make


def masked():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForMaskedLM(BertConfig(vocab_size=259, **sizes))


def two_towers():
    return T5ForConditionalGeneration(T5Config(vocab_size=259, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8))


def adapter(**settings):
    """The folder of a LoRA adapter of the policy beside it, damaged by `settings` of its config."""

    def damage(folder):
        peft = pytest.importorskip("peft", reason="the peft extra is not installed")
        base = str(folder.parent / "whole")
        instead(tiny_llama)(folder)
        shutil.move(folder, base)
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(load_policy(base), lora).save_pretrained(folder)
        read = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**read, **settings}))

    return damage


def adapter_then(damage_after):
    def damage(folder):
        adapter()(folder)
        damage_after(folder)

    return damage


def without_adapter_weight(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors")


def spoilt_adapter(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[sorted(tensors)[0]].fill_(float("nan"))
    save_file(tensors, folder / "adapter_model.safetensors")


ANY = {  # damage that any model can take → what the line says
    "a weight is missing": (without(UP), f"weights are missing: {UP}"),
    "the embedding is missing": (without(EMBEDDING), f"weights are missing: {EMBEDDING}"),
    "a weight too many": (put("model.layers.2.mlp.up_proj.weight", (32, 16)), "unexpected weights: model.layers.2.mlp"),
    "a weight of another shape": (put(UP, (31, 16)), f"{UP} has shape [31, 16] in the weights and [32, 16]"),
    "fewer layers in the config": (config(num_hidden_layers=1), "unexpected weights: model.layers.1."),
    "more layers in the config": (config(num_hidden_layers=3), "weights are missing: model.layers.2."),
    "NaN": (spoilt(UP, float("nan")), f"weights are NaN or infinite: {UP}"),
    "infinity": (spoilt("model.norm.weight", float("-inf")), "weights are NaN or infinite: model.norm.weight"),
    "weights cut short": (cut("model.safetensors", 0.7), "model.safetensors is damaged or truncated"),
    "weights cut in the header": (cut("model.safetensors", 0.01), "model.safetensors is damaged or truncated"),
    "weights empty": (file("model.safetensors", b""), "model.safetensors is empty"),
    "weights a page": (file("model.safetensors", b"<html>\nnot found</html>"), "model.safetensors is damaged"),
    "weights a pointer": (
        file("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "a Git LFS pointer",
    ),
    "weights none": (weights(lambda tensors: tensors.clear()), "model.safetensors has no weights"),
    "weights absent": (gone("model.safetensors"), "no weights here (model.safetensors)"),
    "weights pickled": (pickled, "only pickled weights (pytorch_model.bin)"),
    "config empty": (file("config.json", b""), "config.json is empty"),
    "config {}": (file("config.json", b"{}"), "config.json has no content"),
    "config []": (file("config.json", b"[]"), "config.json has no content"),
    "config a list": (file("config.json", b'["llama"]'), "config.json is a list, not an object"),
    "config no JSON": (file("config.json", b"{'model_type':\n'llama'}"), "config.json is not JSON"),
    "config cut short": (cut("config.json", 0.5), "config.json is not JSON"),
    "config no text": (file("config.json", b"\xff\xfe\x00"), "cannot read config.json"),
    "config without a kind": (config(model_type=None), "config.json has no model_type"),
    "config of an unknown kind": (config(model_type="llama99"), "does not know the model_type 'llama99'"),
    "config that does not hold together": (config(hidden_size="wide"), "cannot load a"),
    "config absent": (gone("config.json"), "no config.json here"),
    "nothing there": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "a padding that it lacks": (config(vocab_size=200), "pad_token_id 256, which must be below vocab_size 200"),
    "a masked language model": (instead(masked), "masked language model (BertForMaskedLM)"),
    "a model with an encoder": (instead(two_towers), None),
}  # fmt: skip
POLICY = {
    **ANY,
    "a vocabulary too small": (instead(few_rows), "259 ids, but the model only 200"),
    "a head is missing": (without(HEAD), f"weights are missing: {HEAD}"),
    "a shard is missing": (sharded, ".safetensors is missing"),
    "an index without shards": (
        lambda folder: (gone("model.safetensors")(folder), file("model.safetensors.index.json", b"{}")(folder)),
        "model.safetensors.index.json has no content",
    ),
    "a value model": (instead(lambda: value_model_from(tiny_llama())), "is a value model (LlamaForToken"),
    "a value model that does not say so": (
        lambda folder: (instead(lambda: value_model_from(tiny_llama()))(folder), config(architectures=None)(folder)),
        "unexpected weights: score.weight",
    ),
    "a reward model": (instead(classifier(1, AutoModelForSequenceClassification)), "is a reward model (Llama"),
    "a value head beside the policy": (put("v_head.summary.weight", (1, 16)), "unexpected weights: v_head.summary"),
    "a tokenizer too large": (instead(lambda: tiny_llama(), larger_tokenizer), "261 ids, but the model only 259"),
    "tokenizer empty": (file("tokenizer.json", b""), "tokenizer.json is empty"),
    "tokenizer {}": (file("tokenizer.json", b"{}"), "tokenizer.json has no content"),
    "tokenizer cut short": (cut("tokenizer.json", 0.5), "tokenizer.json is not JSON"),
    "tokenizer of no kind": (file("tokenizer.json", b'{"model": {"type": "?"}}'), "cannot load a tokenizer"),
    "tokenizer's config a list": (file("tokenizer_config.json", b"[1]"), "tokenizer_config.json is a list"),
    "tokenizer absent": (gone("tokenizer.json", "tokenizer_config.json"), "no tokenizer here"),
    "an adapter cut short": (adapter_then(cut("adapter_model.safetensors", 0.5)), "safetensors is damaged"),
    "an adapter not whole": (adapter_then(without_adapter_weight), "weights of the adapter are missing"),
    "an adapter without weights": (adapter_then(gone("adapter_model.safetensors")), "safetensors is missing"),
    "an adapter of NaN": (adapter_then(spoilt_adapter), "weights are NaN or infinite: base_model.model.model.layers.0"),
    "an adapter of nothing": (adapter(base_model_name_or_path=None), "has no base_model_name_or_path"),
    "an adapter of what is gone": (adapter(base_model_name_or_path="/none/here"), "/none/here: no such folder"),
    "an adapter of another rank": (adapter(r=3), "the adapter does not fit"),
    "an adapter of other modules": (adapter(target_modules=["c_attn"]), "the adapter does not fit"),
    "an adapter of an unknown kind": (adapter(peft_type="MAGIC"), "the adapter does not fit"),
}  # fmt: skip
VALUE = {
    **ANY,
    "a vocabulary too small": (instead(few_rows_of_value), "259 ids, but the model only 200"),
    "a policy": (instead(lambda: tiny_llama(tied=False)), "is a policy (LlamaForCausalLM), not a value model"),
    "a value model without its head": (without("score.weight"), "weights are missing: score.weight"),
    "two labels": (instead(classifier(2)), "a value model has one label, this one has 2"),
    "two labels by the config alone": (config(num_labels=2), "a value model has one label, this one has 2"),
    "a head of another width": (put("score.weight", (1, 15)), "score.weight has shape [1, 15] in the weights"),
    "a head of NaN": (spoilt("score.weight", float("nan")), "weights are NaN or infinite: score.weight"),
    "a reward model": (instead(classifier(1, AutoModelForSequenceClassification)), "is a reward model (Llama"),
    "another vocabulary": (
        instead(lambda: value_model_from(tiny_llama()), other_tokenizer), "vocabulary is not the policy's: id 97 is 'b'"
    ),
    "an adapter": (adapter(), "is only an adapter"),
}  # fmt: skip
REFERENCE = {
    "a weight is missing": ANY["a weight is missing"],
    "a value model": POLICY["a value model"],
    "a larger vocabulary": (instead(lambda: tiny_llama(vocab_size=300)), "it has 300 tokens, the policy 259"),
    "another vocabulary": (instead(tiny_llama, other_tokenizer), "its vocabulary is not the policy's: id 97"),
}
REWARD = {
    "a weight is missing": ANY["a weight is missing"],
    "a value model": (instead(lambda: value_model_from(tiny_llama())), "is a value model (LlamaForToken"),
    "a policy": (instead(tiny_llama), "is a policy (LlamaForCausalLM)"),
    "two labels": (instead(classifier(2, AutoModelForSequenceClassification)), "one label, this one has 2"),
    "another vocabulary": (
        instead(classifier(1, AutoModelForSequenceClassification), other_tokenizer), "is not the policy's: id 97"
    ),
}  # fmt: skip


# ---- the commands -------------------------------------------------------------------------------------

SMALL = ["--max_steps", "1", "--use_cpu", "true", "--save_strategy", "no", "--report_to", "none"]
DRAW = ["--task", "arithmetic", "--limit", "2", "--max_new_tokens", "4"]


def train(root, out, **models):
    flags = [part for name, folder in models.items() for part in (f"--{name}", str(folder))]
    return ["train", "--method", "oreo", *flags, "--episodes", str(root / "episodes"), "--output_dir", str(out), *SMALL]


def evaluate(out, search, **models):
    flags = [part for name, folder in models.items() for part in (f"--{name}", str(folder))]
    return ["evaluate", *DRAW, "--search", search, *flags, "--output_dir", str(out)]


def cases(table):
    return [pytest.param(damage, message, id=name) for name, (damage, message) in table.items()]


def refused(command, root, given, message, capsys):
    before = sorted(root.rglob("*"))
    capsys.readouterr()
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert str(given) in err
    assert message is None or message in err
    assert sorted(root.rglob("*")) == before


def damaged(good, tmp_path, name, damage):
    folder = tmp_path / "given"
    shutil.copytree(good / name, folder)
    damage(folder)
    return folder


@pytest.mark.parametrize(("damage", "message"), cases(POLICY))
def test_a_policy(damage, message, good, tmp_path, capsys):
    given, out = damaged(good, tmp_path, "policy", damage), tmp_path / "out"
    for command in (
        train(good, out, model=given),
        ["collect", *DRAW, "--model", str(given), "--output_dir", str(out)],
        evaluate(out, "greedy", model=given),
    ):
        refused(command, tmp_path, given, message, capsys)


@pytest.mark.parametrize(("damage", "message"), cases(VALUE))
def test_a_value_model(damage, message, good, tmp_path, capsys):
    given, out = damaged(good, tmp_path, "value", damage), tmp_path / "out"
    for command in (
        train(good, out, model=good / "policy", value_model=given),
        evaluate(out, "sample", model=good / "policy", value_model=given),
        evaluate(out, "beam", model=good / "policy", value_model=given),
    ):
        refused(command, tmp_path, given, message, capsys)


@pytest.mark.parametrize(("damage", "message"), cases(REFERENCE))
def test_a_reference(damage, message, good, tmp_path, capsys):
    given = damaged(good, tmp_path, "policy", damage)
    refused(train(good, tmp_path / "out", model=good / "policy", ref_model=given), tmp_path, given, message, capsys)


@pytest.mark.parametrize(("damage", "message"), cases(REWARD))
def test_a_reward_model(damage, message, good, tmp_path, capsys):
    given = damaged(good, tmp_path, "reward", damage)
    command = evaluate(tmp_path / "out", "best-of", model=good / "policy", reward_model=given)
    refused(command, tmp_path, given, message, capsys)


def test_what_is_whole_is_taken(good, tmp_path):
    whole = {"value_model": good / "value", "model": good / "policy"}
    trained = train(good, tmp_path / "o", model=good / "tied", value_model=good / "value", ref_model=good / "policy")
    assert main(trained) == 0
    assert main(["collect", *DRAW, "--model", str(good / "policy"), "--output_dir", str(tmp_path / "c")]) == 0
    assert main(evaluate(tmp_path / "e", "sample", **whole)) == 0
    assert main(evaluate(tmp_path / "r", "best-of", model=good / "policy", reward_model=good / "reward")) == 0
