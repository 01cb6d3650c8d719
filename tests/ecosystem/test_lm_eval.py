"""lm-evaluation-harness scores a saved policy as the policy scores itself."""

import json
from importlib.util import find_spec

import pytest
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.models.loading import load_policy

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval, of the extra ecosystem")

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
ROWS = [
    {"question": f"{a}+{b}=", "choices": ["4", "7", "12"], "gold": k}
    for k, (a, b) in enumerate([(2, 2), (3, 4), (5, 7)])
]


def log_prob(policy, tokenizer, prompt, text):
    start, ids = (
        len(tokenizer(t)["input_ids"]) if t == prompt else tokenizer(t)["input_ids"] for t in (prompt, prompt + text)
    )
    with torch.no_grad():
        log_probs = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_probs[p - 1, ids[p]]) for p in range(start, len(ids)))


def test_a_saved_policy_has_the_log_likelihoods_of_ours(tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny_llama(seed=3, hidden=32).save_pretrained(tmp_path / "policy")
    byte_tokenizer().save_pretrained(tmp_path / "policy")
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=tmp_path / "rows.json"))
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "policy"), "device": "cpu", "dtype": "float32"},
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    policy, tokenizer = load_policy(str(tmp_path / "policy")).eval(), byte_tokenizer()
    ours = [[log_prob(policy, tokenizer, row["question"], choice) for choice in row["choices"]] for row in ROWS]
    theirs = [[float(answer[0][0]) for answer in sample["resps"]] for sample in found["samples"]["sums"]]
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours), atol=1e-4, rtol=1e-5)
    hits = [max(range(3), key=row.__getitem__) == k for k, row in enumerate(ours)]
    assert found["results"]["sums"]["acc,none"] == pytest.approx(sum(hits) / 3)
