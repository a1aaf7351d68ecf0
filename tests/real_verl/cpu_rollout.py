"""FSDP on the platform of `cpu_platform`, and the rollout "cpu": a replica that samples with the transformers engine.

Its server takes over the trainer's weights after each update, as verl's vLLM servers do.
"""

from collections.abc import Iterable
from typing import Any

import ray
import torch
import torch.distributed
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.rollout import base as rollouts
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from ibtpo.engines import Sampling

SERVER = "ibtpo_cpu_server"

EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cpu"])(FSDPEngineWithLMHead)

_init_process_group = torch.distributed.init_process_group


def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
    """verl asks for one backend for the CPU and one for the device, which are the same here."""
    _init_process_group("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)


torch.distributed.init_process_group = init_process_group


class Server:
    """A Ray actor that samples with the transformers engine, as verl's vLLM server does with vLLM."""

    def __init__(self, path: str) -> None:
        from ibtpo.engines.models import eos_token_ids, load_model
        from ibtpo.engines.transformers import TransformersEngine

        torch.set_num_threads(1)
        self.model, tokenizer = load_model(path)
        self.engine = TransformersEngine(self.model, eos_token_ids=eos_token_ids(self.model, tokenizer))
        self.version: int | None = None

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """Samples one continuation. Greedy validation is sampled nearly so."""
        p = sampling_params
        sampling = Sampling(p["temperature"] or 1e-3, p["top_p"], max(p["top_k"], 0))
        found = await self.engine.generate(prompt_ids, sampling, p.get("seed", 0), p.get("max_tokens", 64))
        return TokenOutput(
            token_ids=found.token_ids,
            log_probs=found.logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": self.version},
        )

    async def take(self, weights: dict[str, torch.Tensor], version: int | None) -> None:
        """Takes over the trainer's weights."""
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected
        assert all(name == "lm_head.weight" for name in missing), missing  # tied to the embedding
        self.engine.reset_cache()
        self.version = version

    async def quiet(self, *_: Any, **__: Any) -> None:
        """Stands for what matters on a GPU only."""

    wake_up = sleep = abort_all_requests = resume_generation = clear_kv_cache = quiet
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = wait_for_requests_to_drain = quiet


class Replica(RolloutReplica):
    """One server, started as a Ray actor."""

    async def launch_servers(self) -> None:
        """See verl's class."""
        server = ray.remote(Server).options(name=SERVER, max_concurrency=100, num_cpus=0)
        self._server_handle = server.remote(self.model_config.path)
        self.servers, self._server_address = [self._server_handle], "127.0.0.1:0"


class Rollout(rollouts.BaseRollout):
    """The trainer's side: it sends weights to the server."""

    async def resume(self, tags: list[str]) -> None:
        """Nothing was taken away."""

    async def release(self) -> None:
        """Nothing needs to be given back."""

    async def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], *_: Any, **options: Any) -> None:
        """Sends all weights at once."""
        whole = {name: tensor.detach().float().cpu().clone() for name, tensor in weights}
        await ray.get_actor(SERVER).take.remote(whole, options.get("global_steps"))


rollouts._ROLLOUT_REGISTRY["cpu", "async"] = f"{__name__}.Rollout"
RolloutReplicaRegistry.register("cpu", lambda: Replica)
