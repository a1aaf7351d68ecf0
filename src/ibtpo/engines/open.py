"""An engine by name, with the tokenizer that goes with it.

An engine of your own is named by a dotted path `package.module:factory`, to a function (or class) of this form:

    factory(model, tokenizer, *, max_in_flight: int) -> Engine

model: the loaded transformers model. In training it is the one being trained: its weights change, and `reset_cache()`
    is called before and after each batch that is sampled.
tokenizer: the model's.
max_in_flight: the most requests that will be made at once.

What it returns should inherit from `ibtpo.Engine`; then `generate` is all that it has to define. The factory is called
again for each evaluation that a training run makes, and may return the same engine each time.
"""

from typing import Any

from .._extras import load_object
from .._text import describe
from ..errors import ConfigError, IBTPOError, unknown
from . import Engine

ENGINES = ("transformers", "vllm")
DEFAULT_KV_MEMORY_GB = 2.0
SMALL_MODEL = 10_000_000  # parameters; below, a second CPU thread gains nothing
NEEDED = ("generate", "reset_cache", "max_length", "busy_seconds", "logprobs")  # of an engine


def is_dotted_path(engine: str) -> bool:
    """Whether an engine's name is `package.module:factory`; a server's URL has a number or slashes after the colon."""
    return engine.partition(":")[2].isidentifier()


def server_urls(engine: str) -> list[str]:
    """The URLs in an engine's name; empty for an engine in this process. Raises `ConfigError` for what is neither."""
    if engine in ENGINES or is_dotted_path(engine):
        return []
    if not any(mark in engine for mark in ":/,"):
        raise unknown("engine", engine, (*ENGINES, "http://host:port", "package.module:factory"))
    return [part for part in (p.strip() for p in engine.split(",")) if part]


def make_engine(path: str, model: Any, tokenizer: Any, *, max_in_flight: int) -> Engine:
    """The engine that a factory at a dotted path makes; see the head of this file.

    Raises `ConfigError` when the path leads to no function, when the function fails, and when what it returns is no
    engine.
    """
    factory: Any = load_object(path, "engine")
    try:
        engine = factory(model, tokenizer, max_in_flight=max_in_flight)
    except IBTPOError:
        raise
    except Exception as e:  # the user's code: anything
        raise ConfigError(f"engine {path!r} cannot be made: {describe(e)}") from e
    missing = [name for name in NEEDED if not hasattr(engine, name)]
    if missing:
        raise ConfigError(
            f"engine {path!r} returned a {type(engine).__name__}, which has no {', '.join(missing)}; let its class "
            "inherit from ibtpo.Engine"
        )
    return engine


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

    engine: "transformers", "vllm", the URLs of servers of this model, separated by commas, or the dotted path of a
        factory, see the head of this file.
    model: see `models.resolve_model`; with servers, of its files only tokenizer and configuration are read.
    dtype, device, kv_memory_gb: see the engines; servers and an engine of your own have their own ways.
    max_in_flight: rollouts at once.

    Raises `ConfigError` for a name that stands for no engine, or a model or an engine that cannot be made.
    """
    from .models import eos_token_ids, load_model, load_skeleton, resolve_model

    urls = server_urls(engine)
    if engine == "transformers" or is_dotted_path(engine):
        if engine != "transformers":
            load_object(engine, "engine")  # a misspelt path is told before the model is loaded
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        _spare_threads(loaded)
        if engine != "transformers":
            return make_engine(engine, loaded, tokenizer, max_in_flight=max_in_flight), tokenizer
        from .transformers import TransformersEngine

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


def _spare_threads(model: Any) -> None:
    """One thread for a small model: on a busy machine, threads that wait for each other after every small product take
    a hundred times as long."""
    if model.num_parameters() < SMALL_MODEL:
        import torch

        torch.set_num_threads(1)
