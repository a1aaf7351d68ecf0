"""A small server that speaks the HTTP of vLLM and SGLang, over a toy language model of ten tokens.

The toy's logits depend on the last token only, so a test can compute every log-probability itself.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

VOCAB = 10
EOS = 1
Reply = tuple[int, dict[str, str], bytes]  # status, headers, body


def logits(last: int) -> np.ndarray:
    """(10,) logits of the token after the token `last`."""
    return np.random.default_rng(last).normal(size=VOCAB) * 1.5


def log_softmax(values: np.ndarray) -> np.ndarray:
    """(V,) log-probabilities of logits `values` (V,)."""
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


class FakeServer:
    """A server that answers at `url` until `kill()`, or inside `with FakeServer(…) as server:`.

    owned_by: what the model list says, by which a client tells "vllm" from "sglang".
    logprobs: which log-probabilities it reports: "full" are those after the temperature, "raw" those before it, and
        "processed" those after top-k and top-p as well.
    model: the name of its model.
    max_model_len: the longest context it claims; None if it does not say.
    script: called with path, body (None for a GET) and the number of requests for tokens so far; what it returns is the
        reply, and None means the usual one.
    delay: seconds it waits before it answers a request for tokens.

    What arrived is kept for the test: `requests` has the bodies of the requests for tokens, `headers` the headers of
    all requests. `health` is the status that /health answers with.
    """

    def __init__(
        self,
        *,
        owned_by: str = "vllm",
        logprobs: str = "full",
        model: str = "toy",
        max_model_len: int | None = 64,
        script: Callable[[str, Any, int], Reply | None] | None = None,
        delay: float = 0.0,
    ) -> None:
        self.owned_by, self.logprobs, self.model, self.max_model_len = owned_by, logprobs, model, max_model_len
        self.script, self.delay = script, delay
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.health = 200
        self.dead = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # a whole reply leaves in one packet

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                fake.headers.append(dict(self.headers))
                self.reply(fake.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                fake.headers.append(dict(self.headers))
                self.reply(fake.post(self.path, body))

            def reply(self, reply: Reply) -> None:
                if fake.dead:
                    self.close_connection = True
                    return
                status, headers, data = reply
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have given up
                    self.wfile.write(data)
                    self.wfile.flush()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Closes the server in the middle of whatever it is doing; requests under way get no reply."""
        if not self.dead:
            self.dead = True
            self.http.shutdown()
            self.http.server_close()

    def get(self, path: str) -> Reply:
        """The reply to a GET: health, or else the list of models."""
        if self.script and (reply := self.script(path, None, len(self.requests))) is not None:
            return reply
        if path == "/health":
            return self.health, {}, b""
        card = {"id": self.model, "owned_by": self.owned_by, "max_model_len": self.max_model_len}
        return ok({"data": [card]})

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """The reply to a request for tokens: vLLM's at /v1/completions, SGLang's anywhere else."""
        self.requests.append(body)
        if self.script and (reply := self.script(path, body, len(self.requests))) is not None:
            return reply
        time.sleep(self.delay)
        if path == "/v1/completions":
            prompt, s = body["prompt"], body
        else:
            prompt = body["input_ids"]
            s = {**body["sampling_params"], "max_tokens": body["sampling_params"]["max_new_tokens"]}
            s["seed"] = s["sampling_seed"]
        ids, lps, finish = self.sample(prompt, s)
        if path == "/v1/completions":
            return ok(completion(ids, lps, finish))
        pairs = [[lp, token, None] for token, lp in zip(ids, lps, strict=True)]
        meta = {"output_token_logprobs": pairs, "finish_reason": {"type": finish}, "cached_tokens": len(prompt) - 1}
        return ok({"text": "", "meta_info": meta})

    def sample(self, prompt: list[int], s: dict[str, Any]) -> tuple[list[int], list[float], str]:
        """Draws a completion: token ids, their log-probabilities of the kind `logprobs`, and how it ended.

        s: the sampling settings, by vLLM's names.
        """
        rng = np.random.default_rng([s["seed"], *prompt])
        last, ids, lps = prompt[-1], [], []
        while len(ids) < s["max_tokens"]:
            raw, full = log_softmax(logits(last)), log_softmax(logits(last) / s["temperature"])
            order = np.argsort(-full)
            k = s["top_k"] if s["top_k"] > 0 else VOCAB
            inside = np.cumsum(np.exp(full[order])) - np.exp(full[order]) < s["top_p"]
            kept = order[:k][inside[:k]]
            p = np.exp(full[kept]) / np.exp(full[kept]).sum()
            last = int(rng.choice(kept, p=p))
            chosen = float(np.log(p[list(kept).index(last)]))
            ids.append(last)
            lps.append({"full": float(full[last]), "raw": float(raw[last]), "processed": chosen}[self.logprobs])
            if last in s["stop_token_ids"]:
                return ids, lps, "stop"
        return ids, lps, "length"


def completion(ids: list[int], lps: list[Any], finish: str = "length", **choice: Any) -> dict[str, Any]:
    """The body of a reply of vLLM's completions endpoint.

    ids: the new tokens' ids.
    lps: their log-probabilities.
    finish: the finish reason.
    choice: fields to add to the choice, or to put in place of its own.
    """
    logprobs = {"tokens": [f"token_id:{t}" for t in ids], "token_logprobs": lps}
    usage = {"prompt_tokens_details": {"cached_tokens": 3}}
    return {
        "choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": finish, **choice}],
        "usage": usage,
    }


def ok(body: Any) -> Reply:
    """A reply of status 200 with this body as JSON."""
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def error(status: int, message: str, **headers: str) -> Reply:
    """A reply with an error, as both servers phrase it. headers: their names with _ for -."""
    body = {"error": {"message": message, "type": "x", "code": status}}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()
