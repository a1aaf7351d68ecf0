"""Training with TRL's vLLM modes, vLLM itself played by a small stand-in with a prefix cache that can go stale."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

pytest.importorskip("httpx2")
import trl.generation.vllm_client as trl_client
import trl.generation.vllm_generation as trl_vllm

from helpers.fake_server import FakeServer, Reply, completion, ok
from ibtpo.engines.vllm import FULL_SOFTMAX, VLLMEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.training import rollouts
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.trainer import IBTPOTrainer

# The same two in every step, so that a prefix of old weights would be met again.
PROMPTS = Dataset.from_list([{"prompt": "ad"}, {"prompt": "be"}])
EOS = 1


class CachingModel:
    """A model that keeps the logits of every prefix it has seen until it is told to forget them, as vLLM does."""

    def __init__(self, folder: Any) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.kept: dict[tuple[int, ...], torch.Tensor] = {}
        self.events: list[str] = []
        self.forgets = True

    def load(self, named: Any) -> None:
        state = {name: tensor.detach().clone() for name, tensor in named}
        self.model.load_state_dict(state, strict=False)

    def forget(self) -> bool:
        if self.forgets:
            self.kept.clear()
        return self.forgets

    def sample(self, prompt: list[int], o: Any) -> tuple[list[int], list[float], str]:
        rng = np.random.default_rng([o["seed"] % 2**32, *prompt])
        ids, lps = list(prompt), []
        while len(ids) < len(prompt) + o["max_tokens"]:
            if tuple(ids) not in self.kept:
                with torch.no_grad():
                    self.kept[tuple(ids)] = self.model(torch.tensor([ids])).logits[0, -1]
            full = (self.kept[tuple(ids)].double() / o["temperature"]).log_softmax(-1)
            order = full.argsort(descending=True)[: o["top_k"] if o["top_k"] > 0 else None]
            kept = full[order].softmax(-1)
            kept = torch.where(kept.cumsum(-1) - kept < o["top_p"], kept, 0.0)
            token = int(order[rng.choice(len(order), p=(kept / kept.sum()).numpy())])
            ids.append(token)
            lps.append(float(full[token]))
            if token in o["stop_token_ids"]:
                break
        sampled = ids[len(prompt) :]
        return sampled, lps, "stop" if sampled[-1] in o["stop_token_ids"] else "length"


class Recording(IBTPOTrainer):
    """Keeps what sampling and what the trainer thought of the sampled tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gaps: list[float] = []
        self.ratios: list[torch.Tensor] = []
        super().__init__(*args, **kwargs)

    def _credit(self, output: dict[str, Any]) -> None:
        gap = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs() * output["completion_mask"]
        self.gaps.append(float(gap.max()))
        self.ratios.append(output["importance_sampling_ratio"])
        super()._credit(output)


def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [float(c.count("a") > c.count("b")) for c in completions]


def trainer_of(model: Any, folder: Any, peft_config: Any = None, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "use_vllm": True, "per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 12,
        "max_steps": 3, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "temperature": 0.9, "top_p": 0.9,
        "top_k": 6, "splitter": "tokens:3", "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "save_trees_every": 0, "gradient_checkpointing": False, "beta": 0.0,
    }  # fmt: skip
    args = IBTPOConfig(output_dir=str(folder), **{**defaults, **options})
    return Recording(str(model), reward, args, PROMPTS, eval_dataset=PROMPTS, peft_config=peft_config)


def check_on_policy(trainer: Any) -> None:
    """Sampled with the weights of the step, scored as the trainer scores, although a filter was on."""
    assert len(trainer.gaps) == 3
    assert max(trainer.gaps) < 1e-4
    for ratio in trainer.ratios:
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-3, rtol=0)
    assert len(trainer.trees) == 2
    assert all(len(tree.leaves) == 8 for tree in trainer.trees)


# --- a server --------------------------------------------------------------------------------------------------


class ModelServer(FakeServer):
    """vLLM's endpoints that TRL and the server engine use."""

    def __init__(self, folder: Any, logprobs_mode: str = "processed_logits") -> None:
        self.caching = CachingModel(folder)
        self.logprobs_mode = logprobs_mode
        super().__init__(max_model_len=128)

    def get(self, path: str) -> Reply:
        if path.startswith("/server_info"):
            config = {"model_config": {"logprobs_mode": self.logprobs_mode}, "weight_transfer_config": {}}
            return ok({"vllm_config": config})
        return super().get(path)

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        if path == "/reset_prefix_cache":
            self.caching.events.append("reset")
            return ok({"success": self.caching.forget()})
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        if len(prompts) > 1 or body.get("n", 1) > 1:  # TRL's own, in evaluation
            body = {"seed": 0, "stop_token_ids": [EOS], **body}
            choices = []
            for i in range(len(prompts) * body["n"]):
                prompt = prompts[i // body["n"]]
                ids, lps, finish = self.caching.sample(prompt, {**body, "seed": i})
                choice = completion(ids, lps, finish, prompt_token_ids=prompt)["choices"][0]
                choice["logprobs"]["top_logprobs"] = [{}] * len(ids)
                choices.append(choice)
            return ok({"choices": choices})
        self.requests.append(body)
        ids, lps, finish = self.caching.sample(prompts[0], body)
        if self.logprobs_mode == "processed_logprobs":
            lps = [0.0] * len(ids)
        return ok(completion(ids, lps, finish))


@pytest.fixture
def no_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's client without vLLM and without the GPUs its weight transfer needs."""
    monkeypatch.setattr(trl_vllm, "is_vllm_available", lambda *a, **k: True)
    monkeypatch.setattr(trl_client, "is_vllm_available", lambda *a, **k: True)
    monkeypatch.setattr(trl_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
    monkeypatch.setattr(trl_client.VLLMClient, "init_communicator", lambda self, device: None)


def serve(monkeypatch: pytest.MonkeyPatch, server: ModelServer) -> None:
    def update(self: Any, metadata: Any, named: Any) -> None:
        server.caching.events.append("weights")
        server.caching.load(named)

    monkeypatch.setattr(trl_client.VLLMClient, "update_named_params", update)


def test_server_mode_samples_trees_with_the_synced_weights(
    tiny_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, no_nccl: None, caplog: pytest.LogCaptureFixture
) -> None:
    with ModelServer(tiny_model) as server:
        serve(monkeypatch, server)
        trainer = trainer_of(tiny_model, tmp_path, vllm_mode="server", vllm_server_base_url=server.url)
        trainer.train()
        syncs = server.caching.events.copy()
        metrics = trainer.evaluate()
    check_on_policy(trainer)
    assert syncs == ["weights", "reset", "reset"] * 3  # TRL's reset, and ours, whose answer is read
    assert "eval_reward" in metrics
    assert len(server.requests) == 3 * 16 + 2  # a request a trajectory, two to find out about the log-probs
    assert "logprobs-mode" not in caplog.text  # TRL's advice for its own sampling would spoil ours


def test_a_server_that_keeps_its_cache_ends_the_run(
    tiny_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, no_nccl: None
) -> None:
    with ModelServer(tiny_model) as server:
        serve(monkeypatch, server)
        server.caching.forgets = False
        trainer = trainer_of(tiny_model, tmp_path, vllm_mode="server", vllm_server_base_url=server.url)
        with pytest.raises(EngineError, match="did not reset its prefix cache after the weight sync"):
            trainer.train()


def test_without_the_reset_these_tests_would_see_stale_prefixes(
    tiny_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, no_nccl: None
) -> None:
    with ModelServer(tiny_model) as server:
        serve(monkeypatch, server)
        server.caching.forgets = False
        monkeypatch.setattr(rollouts.TreeGeneration, "_server_forgot", lambda self: True)
        trainer = trainer_of(tiny_model, tmp_path, vllm_mode="server", vllm_server_base_url=server.url)
        trainer.train()
    assert trainer.gaps[0] < 1e-4
    assert max(trainer.gaps[1:]) > 0.01


def test_a_server_with_processed_logprobs_is_refused_with_what_to_start_it_with(
    tiny_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, no_nccl: None
) -> None:
    with ModelServer(tiny_model, "processed_logprobs") as server:
        serve(monkeypatch, server)
        trainer = trainer_of(tiny_model, tmp_path, vllm_mode="server", vllm_server_base_url=server.url)
        with pytest.raises(
            ConfigError, match=r"renormalised after top-p and top-k.*--logits-processors ibtpo\.engines"
        ):
            trainer.train()


# --- in process ------------------------------------------------------------------------------------------------


class FakeLLM:
    """The parts of `vllm.LLM` that TRL and the engine touch."""

    last: "FakeLLM"

    def __init__(self, **options: Any) -> None:
        FakeLLM.last = self
        self.options = options
        self.caching = CachingModel(options["model"])
        self.events: list[Any] = []
        self.awake = {"weights", "kv_cache"}
        self.waiting: dict[str, Any] = {}
        model = SimpleNamespace(load_weights=self.load_weights)
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
        config = SimpleNamespace(
            logprobs_mode=options["logprobs_mode"], logits_processors=options["logits_processors"],
            max_model_len=128, get_vocab_size=lambda: self.caching.model.config.vocab_size,
        )  # fmt: skip
        self.llm_engine = SimpleNamespace(
            model_config=config, model_executor=SimpleNamespace(driver_worker=worker), add_request=self.add_request,
            step=self.step, abort_request=lambda ids: [self.waiting.pop(i, None) for i in ids],
        )  # fmt: skip

    def load_weights(self, named: Any) -> None:
        assert "weights" in self.awake
        if self.events[-1:] != ["load"]:
            self.events.append("load")
        self.caching.load(named)

    def reset_prefix_cache(self) -> bool:
        self.events.append("reset")
        return self.caching.forget()

    def wake_up(self, tags: list[str]) -> None:
        self.events.append(("wake", *tags))
        self.awake |= set(tags)

    def sleep(self, level: int) -> None:
        self.events.append(("sleep", level))
        self.awake.clear()
        for parameter in self.caching.model.parameters():  # level 2 discards the weights
            parameter.data.zero_()

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        assert self.awake == {"weights", "kv_cache"}
        self.waiting[name] = (prompt["prompt_token_ids"], params)

    def step(self) -> list[Any]:
        done = []
        for name, (prompt, params) in list(self.waiting.items())[:4]:
            del self.waiting[name]
            ids, lps, finish = self.caching.sample(prompt, params)
            logprobs = [{token: SimpleNamespace(logprob=lp)} for token, lp in zip(ids, lps, strict=True)]
            output = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=finish)
            done.append(
                SimpleNamespace(
                    request_id=name, finished=True, outputs=[output], prompt_token_ids=prompt, num_cached_tokens=0
                )
            )
        return done


@pytest.fixture
def colocated(monkeypatch: pytest.MonkeyPatch) -> None:
    def parameters(self: Any, sampling: Any, seed: int, room: int) -> dict[str, Any]:
        return {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "seed": seed,
            "max_tokens": room, "stop_token_ids": sorted(self.eos_token_ids),
        }  # fmt: skip

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # set by TRL, for vLLM
        monkeypatch.setenv(name, "0")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(trl_vllm, "is_vllm_available", lambda *a, **k: True)
    monkeypatch.setattr(trl_vllm, "LLM", FakeLLM, raising=False)
    monkeypatch.setattr(trl_vllm, "empty_cache", lambda: None)
    monkeypatch.setattr(rollouts, "_packs_weights", lambda: False)
    monkeypatch.setattr(VLLMEngine, "_parameters", parameters)


def test_colocated_vllm_samples_trees_with_the_synced_weights(tiny_model: Any, tmp_path: Any, colocated: None) -> None:
    trainer = trainer_of(tiny_model, tmp_path, vllm_mode="colocate")
    assert trl_vllm.LLM is FakeLLM  # TRL's module is as it was
    trainer.train()
    check_on_policy(trainer)
    options = FakeLLM.last.options
    assert {**options, **FULL_SOFTMAX, "enable_prefix_caching": True, "dtype": "float32"} == options
    assert FakeLLM.last.events == ["load", "reset", "reset"] * 3


def test_an_adapter_is_merged_into_the_weights_vllm_gets(tiny_model: Any, tmp_path: Any, colocated: None) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = trainer_of(tiny_model, tmp_path, adapter, vllm_mode="colocate")
    before = {n: p.clone() for n, p in FakeLLM.last.caching.model.named_parameters()}
    trainer.train()
    check_on_policy(trainer)
    after = dict(FakeLLM.last.caching.model.named_parameters())
    assert any(float((before[n] - after[n]).abs().max().detach()) > 1e-3 for n in before)


def test_sleep_mode_wakes_what_it_needs_and_sleeps_again(tiny_model: Any, tmp_path: Any, colocated: None) -> None:
    trainer = trainer_of(tiny_model, tmp_path, vllm_mode="colocate", vllm_enable_sleep_mode=True)
    llm = FakeLLM.last
    assert llm.events == [("sleep", 2)]
    trainer.train()
    check_on_policy(trainer)
    step = [("wake", "weights"), "load", "reset", "reset", ("wake", "kv_cache"), ("sleep", 2)]
    assert llm.events[1:] == step * 3


def test_several_generation_batches_in_one_step_wake_with_the_weights(
    tiny_model: Any, tmp_path: Any, colocated: None
) -> None:
    """Sleep discards the weights: the second batch of a step needs them again although they did not change."""
    trainer = trainer_of(
        tiny_model, tmp_path, vllm_enable_sleep_mode=True, gradient_accumulation_steps=2, steps_per_generation=1,
        per_device_train_batch_size=8, max_steps=1, vllm_mode="colocate",
    )  # fmt: skip
    trainer.train()
    assert FakeLLM.last.events.count("load") == 2
    assert len(trainer.gaps) == 2
    assert max(trainer.gaps) < 1e-4


def test_a_colocated_cache_that_is_not_reset_ends_the_run(tiny_model: Any, tmp_path: Any, colocated: None) -> None:
    trainer = trainer_of(tiny_model, tmp_path, vllm_mode="colocate")
    FakeLLM.last.caching.forgets = False
    with pytest.raises(EngineError, match="did not reset its prefix cache"):
        trainer.train()


def test_trls_own_trainer_is_left_alone(tiny_model: Any) -> None:
    import trl.trainer.grpo_trainer as trl_grpo

    assert trl_grpo.VLLMGeneration is trl_vllm.VLLMGeneration
    with rollouts.tree_generation():
        assert trl_grpo.VLLMGeneration is rollouts.TreeGeneration
    assert trl_grpo.VLLMGeneration is trl_vllm.VLLMGeneration
