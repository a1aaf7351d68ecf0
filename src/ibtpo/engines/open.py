"""An engine by name, with the tokenizer that goes with it."""

from typing import Any

from ..errors import ConfigError, unknown
from . import Engine

ENGINES = ("transformers", "vllm")
DEFAULT_KV_MEMORY_GB = 2.0


def server_urls(engine: str) -> list[str]:
    """The URLs in an engine's name; empty for an engine in this process. Raises `ConfigError` for what is neither."""
    if engine in ENGINES:
        return []
    if not any(mark in engine for mark in ":/,"):
        raise unknown("engine", engine, (*ENGINES, "http://host:port"))
    return [part for part in (p.strip() for p in engine.split(",")) if part]


def open_engine(
    engine: str,
    model: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    max_in_flight: int = 64,
    kv_memory_gb: float | None = None,
) -> tuple[Engine, Any]:
    """The engine and the tokenizer.

    engine: "transformers", "vllm" or the URLs of servers of this model, separated by commas. model: see
    `models.resolve_model`; with servers, of its files only tokenizer and configuration are read.
    dtype, device, kv_memory_gb: see the engines; a server has its own. max_in_flight: rollouts at once.
    """
    from .models import eos_token_ids, load_model, load_skeleton, resolve_model

    urls = server_urls(engine)
    if engine == "transformers":
        from .transformers import TransformersEngine

        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        kept = DEFAULT_KV_MEMORY_GB if kv_memory_gb is None else kv_memory_gb
        ends = eos_token_ids(loaded, tokenizer)
        return TransformersEngine(
            loaded, eos_token_ids=ends, max_batch_size=max_in_flight, kv_memory_gb=kept
        ), tokenizer
    if device is not None:
        raise ConfigError(f"device {device!r} is for the transformers engine; vLLM and servers choose their own")
    skeleton, tokenizer = load_skeleton(model)
    ends = eos_token_ids(skeleton, tokenizer)
    if urls:
        from .connect import connect

        config = skeleton.config.get_text_config(decoder=True)
        rows = skeleton.get_input_embeddings().weight.shape[0]
        longest = getattr(config, "max_position_embeddings", None)
        return connect(urls, vocab_size=rows, eos_token_ids=ends, max_length=longest), tokenizer
    from .vllm import VLLMEngine, open_llm

    llm = open_llm(resolve_model(model), dtype=dtype, max_batch_size=max_in_flight, kv_memory_gb=kv_memory_gb)
    return VLLMEngine(llm, eos_token_ids=ends), tokenizer
