"""A stand-in for servers of policies: a real model of a few thousand parameters behind the interfaces of vLLM, SGLang,
llama.cpp, and of servers that take and give text; with faults to order."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

DIALECTS = ("vllm", "sglang", "llama.cpp", "text")
COMPLETIONS = {"vllm": "/v1/completions", "sglang": "/generate", "llama.cpp": "/completion", "text": "/v1/completions"}


class StandIn:
    """A server of one policy.

    Args:
        model, tokenizer: the policy.
        dialect: one of `DIALECTS`.
        name: the name under which it serves the policy.
        context: the context length that it states.
        ends: ids that end a response of themselves, as the model's files say.

    Attributes:
        faults: what it does with the next completions, one each: a function from the handler and the right answer that
            sends something itself, or returns another answer; the last one is for good if `stuck`.
        asked: the completion requests so far, as (path, body).
        headers: headers of the last request.
    """

    def __init__(self, model, tokenizer, dialect, name="tiny", context=256, ends=(257,)):
        self.model, self.tokenizer, self.dialect, self.name = model.eval(), tokenizer, dialect, name
        self.context, self.ends = context, set(ends)
        self.faults, self.stuck, self.asked, self.headers = [], False, [], {}
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    # ---- sampling -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def sampled(self, ids, most, temperature=1.0, top_k=0, top_p=1.0, seed=0, stop=(), ends=(), raw=True, **_):
        """(ids, log-probabilities, text of each id, how it ended, the stop string); log-probabilities are those after
        temperature and filters unless `raw`."""
        noise = torch.Generator().manual_seed(seed)
        ids, out, log_probs = list(ids), [], []
        for _ in range(most):
            with self._lock:
                logits = self.model(torch.tensor([ids])).logits[0, -1].double()
            plain = logits.log_softmax(-1)
            filtered = plain if not temperature else (logits / temperature).log_softmax(-1)
            if temperature and top_k and top_k > 0:
                filtered = filtered.masked_fill(filtered < filtered.topk(top_k).values[-1], -torch.inf).log_softmax(-1)
            if temperature and top_p < 1:
                order = filtered.exp().sort(descending=True)
                dropped = order.indices[order.values.cumsum(0) - order.values >= top_p]
                filtered = filtered.index_fill(0, dropped, -torch.inf).log_softmax(-1)
            token = int(torch.multinomial(filtered.exp(), 1, generator=noise)) if temperature else int(plain.argmax())
            ids.append(token)
            out.append(token)
            log_probs.append(float((plain if raw or not temperature else filtered)[token]))
            if token in ends:
                return out, log_probs, "stop", None
            text = self.tokenizer.decode(out)
            if found := [s for s in stop if s in text]:
                return out, log_probs, "string", min(found, key=text.index)
        return out, log_probs, "length", None

    # ---- the dialects -------------------------------------------------------------------------------

    def answer(self, path, body):
        """The right answer to a request, or None if the server has no such address."""
        if path == "/v1/models":
            entry = {"id": self.name, "object": "model"}
            if self.dialect in ("vllm", "sglang"):
                entry["max_model_len"] = self.context
            return {"object": "list", "data": [entry]}
        own = {
            "llama.cpp": {"/props": {"default_generation_settings": {"n_ctx": self.context}, "total_slots": 4}},
            "vllm": {"/version": {"version": "0.33.0"}},
            "sglang": {"/get_model_info": {"model_path": self.name}},
        }
        if path in (of_dialect := own.get(self.dialect, {})):
            return of_dialect[path]
        if path == "/tokenize" and self.dialect != "text":
            text = body["content" if self.dialect == "llama.cpp" else "prompt"]
            return {"tokens": list(self.tokenizer(text, add_special_tokens=False)["input_ids"])}
        if path == COMPLETIONS[self.dialect]:
            return getattr(self, "_" + self.dialect.replace(".", ""))(body)
        return None

    def _vllm(self, body):
        assert body["include_stop_str_in_output"]
        assert body["ignore_eos"]
        ids, log_probs, ended, word = self.sampled(
            body["prompt"], body["max_tokens"], body["temperature"], body["top_k"], body["top_p"], body["seed"],
            body["stop"], set(body["stop_token_ids"]),
        )  # fmt: skip
        text = self.tokenizer.decode(ids)
        if word:
            text = text[: text.index(word) + len(word)]
        choice = {"index": 0, "text": text, "token_ids": ids, "prompt_token_ids": body["prompt"], "stop_reason": word,
                  "logprobs": {"token_logprobs": log_probs}}  # fmt: skip
        choice["finish_reason"] = "length" if ended == "length" else "stop"
        return {"object": "text_completion", "model": self.name, "choices": [choice]}

    def _sglang(self, body):
        params = body["sampling_params"]
        ends = set() if params["ignore_eos"] else {*params["stop_token_ids"], *self.ends}  # as SGLang does
        ids, log_probs, ended, word = self.sampled(
            body["input_ids"], params["max_new_tokens"], params["temperature"], params["top_k"], params["top_p"],
            params["sampling_seed"], params["stop"], ends,
        )  # fmt: skip
        reason = {"type": "length" if ended == "length" else "stop", "matched": word or ids[-1]}
        pairs = [[number, i, None] for number, i in zip(log_probs, ids)]
        return {"text": self.tokenizer.decode(ids), "output_ids": ids,
                "meta_info": {"finish_reason": reason, "output_token_logprobs": pairs}}  # fmt: skip

    def _llamacpp(self, body):
        raw = not body["post_sampling_probs"]
        kept = {name: body[name] for name in body["samplers"]}
        ids, log_probs, ended, word = self.sampled(
            body["prompt"], body["n_predict"], kept["temperature"], kept.get("top_k", 0), kept.get("top_p", 1.0),
            body["seed"], body["stop"], self.ends, raw,
        )  # fmt: skip
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        given = ids
        if word:
            text = text[: text.index(word)]
            given = ids[: max(0, len(ids) - len(self.tokenizer(word)["input_ids"]))]
        name = "logprob" if raw else "prob"
        probs = [{"id": i, name: n if raw else float(torch.tensor(n).exp())} for i, n in zip(given, log_probs)]
        kind = {"stop": "eos", "string": "word", "length": "limit"}[ended]
        return {"content": text, "tokens": ids, "stop_type": kind, "completion_probabilities": probs}

    def _text(self, body):
        prompt = list(self.tokenizer(body["prompt"])["input_ids"])
        ids, _, ended, _ = self.sampled(
            prompt,
            body["max_tokens"],
            body["temperature"],
            0,
            body.get("top_p", 1.0),
            body.get("seed", 0),
            (),
            self.ends,
        )
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        choice = {"index": 0, "text": text, "finish_reason": "length" if ended == "length" else "stop"}
        return {"object": "text_completion", "model": self.name, "choices": [choice], "usage": usage}

    # ---- the server ---------------------------------------------------------------------------------

    def handle(self, handler, body):
        """Answers a request, or does the next fault instead."""
        self.headers = dict(handler.headers)
        answer = self.answer(handler.path, body)
        if handler.path == COMPLETIONS[self.dialect] and body is not None and self._completes(body):
            self.asked.append((handler.path, body))
            fault = (self.faults[0] if self.stuck else self.faults.pop(0)) if self.faults else None
            if fault is not None:
                answer = fault(handler, answer)
                if answer is None:
                    return
        if answer is None:
            send(handler, {"error": "no such address"}, 404)
        else:
            send(handler, answer)

    def _completes(self, body):
        """Whether a request is a completion and no probe of the tokenizer."""
        return self.dialect != "text" or body.get("seed") is not None

    @contextmanager
    def counted(self):
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


def send(handler, answer, status=200, kind="application/json", **headers):
    """Sends an answer: bytes as they are, anything else as JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(stand_in):
    """The address of a server that runs in threads of this process, until the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            stand_in.handle(self, None)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stand_in.counted():
                stand_in.handle(self, body)

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            pass  # the client went away, as it should where it gave a request up

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
