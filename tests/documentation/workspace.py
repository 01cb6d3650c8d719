"""The folder in which blocks of the documentation run: a tiny model, logs, episodes, trained policy and value model."""

import csv
import gzip
import json
import shutil
from dataclasses import replace

import stepcredit
from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.cli import main
from stepcredit.verdict import Verdict

QUESTION, ANSWER = "What is 17 * 24?", "408"
TRAIN = ["--per_device_train_batch_size", "4", "--max_steps", "2"]


def fill(folder):
    """Writes what pages speak of as there: see the names below. Paths are relative to the folder, the current one."""
    model = tiny_llama(seed=0)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    write_logs(folder)
    write_problems(folder)
    write_episodes(folder)
    for output, policy, data in (("sft", "model", "episodes"), ("out", "model", "episodes")):
        method = "oreo" if output == "out" else "sft"
        command = ["train", "--method", method, "--model", policy, "--episodes", data, "--output_dir", output, *TRAIN]
        assert main(command) == 0
    score = ["evaluate", "--task", "gsm8k", "--data", "problems", "--max_new_tokens", "16", "--model", "out/policy"]
    assert main([*score, "--output_dir", "results"]) == 0
    shutil.copytree("out/value", "other/value")
    assert main(["credit", "--episodes", "episodes", "--value_model", "out/value", "--output_dir", "credit"]) == 0


def write_logs(folder):
    """logs.jsonl, more.csv.gz, answers.jsonl, prompts.jsonl, dataset/; of a batch requests.jsonl, responses.jsonl,
    gold.jsonl."""
    rows = [
        {"prompt": f"{a} + {b} =", "completion": f" {a} and {b}\n{a + b + wrong}", "reward": 1.0 - wrong}
        for a, b in ((1, 2), (3, 4), (5, 6))
        for wrong in (0, 1)
    ]
    (folder / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with gzip.open(folder / "more.csv.gz", "wt", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "answer_text", "score"])
        table.writerows([["7 + 8 =", " 15", 1], ["7 + 8 =", " 16", 0]])
    (folder / "dataset").mkdir()
    card = "---\nconfigs:\n- {config_name: main, data_files: [{split: train, path: rows.jsonl}]}\n---\n"
    (folder / "dataset" / "README.md").write_text(card, encoding="utf-8")
    row = {"question": "7 + 8 =", "response": "15", "score": 1}
    (folder / "dataset" / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    graded = [{"prompt": "1/2?", "response": text, "answer": "0.5"} for text in ("\\boxed{\\frac{1}{2}}", "#### 2")]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded), encoding="utf-8")
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": QUESTION}) + "\n", encoding="utf-8")
    said = {"finish_reason": "stop", "message": {"role": "assistant", "content": f"It is \\boxed{{{ANSWER}}}."}}
    batch = {
        "requests": {"body": {"messages": [{"role": "user", "content": QUESTION}]}},
        "responses": {"response": {"status_code": 200, "body": {"choices": [said]}}, "error": None},
        "gold": {"answer": ANSWER},
    }
    for name, row in batch.items():
        (folder / f"{name}.jsonl").write_text(json.dumps({"custom_id": "1", **row}) + "\n", encoding="utf-8")


def write_problems(folder):
    """problems/ and math/, in the columns of GSM8K and MATH."""
    (folder / "problems").mkdir()
    (folder / "math").mkdir()
    for split, numbers in (("train", range(4)), ("validation", range(4, 7)), ("test", range(7, 10))):
        rows = [{"question": f"What is {k} + 1?", "answer": f"{k} + 1 = {k + 1}\n#### {k + 1}"} for k in numbers]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "problems" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    row = {"problem": "What is $1 + 1$?", "solution": "It is $\\boxed{2}$.", "answer": "2", "level": 1, "subject": "x"}
    (folder / "math" / "math500.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def write_episodes(folder):
    """episodes/: sampled, with log-probabilities, every second response right; demonstrations/: worked solutions."""
    ask = ["collect", "--task", "gsm8k", "--data", "problems", "--max_new_tokens", "24"]
    assert main([*ask, "--model", "model", "--num_generations", "4", "--output_dir", "sampled"]) == 0
    judged = [
        replace(e, reward=float(e.sample % 2), verdict=Verdict.RIGHT if e.sample % 2 else Verdict.WRONG,
                stop_reason=stepcredit.StopReason.STOP)
        for e in stepcredit.load_episodes("sampled")
    ]  # fmt: skip
    stepcredit.append_episodes(folder / "episodes", judged)
    shutil.rmtree(folder / "sampled")
    assert main([*ask, "--model", "solutions", "--output_dir", "demonstrations"]) == 0
