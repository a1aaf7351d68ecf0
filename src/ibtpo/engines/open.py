"""Makes the engine that a name stands for, with the tokenizer that goes with it.

An engine of your own is named by a dotted path `package.module:factory`, to a function (or class) of this form:

    factory(model, tokenizer, *, max_in_flight: int) -> Engine

model: the loaded transformers model. In training it is the one that is trained: its weights change, and
    `reset_cache()` is called before and after each batch that is sampled.
tokenizer: the model's tokenizer.
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
SMALL_MODEL = 10_000_000  # parameters; a model with fewer gains nothing from a second CPU thread
NEEDED = ("generate", "reset_cache", "max_length", "busy_seconds", "logprobs")  # what an engine must have


def is_dotted_path(engine: str) -> bool:
    """Whether an engine's name has the form `package.module:factory`.

    A server's URL has not: a number or slashes follow its colon.
    """
    return engine.partition(":")[2].isidentifier()


def server_urls(engine: str) -> list[str]:
    """The URLs of servers in an engine's name, which commas separate; none for an engine in this process.

    Raises `ConfigError` for a name that is neither.
    """
    if engine in ENGINES or is_dotted_path(engine):
        return []
    if not any(mark in engine for mark in ":/,"):
        raise unknown("engine", engine, (*ENGINES, "http://host:port", "package.module:factory"))
    return [part for part in (p.strip() for p in engine.split(",")) if part]


def make_engine(path: str, model: Any, tokenizer: Any, *, max_in_flight: int) -> Engine:
    """Makes an engine with a factory of the user's own; the head of this file describes one.

    path: the factory's dotted path.
    model: the loaded transformers model.
    tokenizer: the model's tokenizer.
    max_in_flight: the most requests that will be made at once.

    Raises `ConfigError` when the path leads to no function, when the function fails, and when what it returns is no
    engine.
    """
    factory: Any = load_object(path, "engine")
    try:
        engine = factory(model, tokenizer, max_in_flight=max_in_flight)
    except IBTPOError:
        raise
    except Exception as e:  # the factory is the user's own, and may raise anything
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
    """Makes an engine for a model, and returns it with the model's tokenizer.

    engine: "transformers", "vllm", the URLs of servers of this model, separated by commas, or the dotted path of a
        factory, see the head of this file.
    model: see `models.resolve_model`. With servers, only the tokenizer and the configuration are read of its files.
    dtype: the numbers that the weights are loaded as, such as "float32" or "bfloat16"; servers have their own.
    device: where the model is put, for the transformers engine and an engine of your own, such as "cuda:1"; by default
        the first GPU if there is one. vLLM and servers choose their own.
    max_in_flight: the most rollouts that are sampled at once.
    kv_memory_gb: memory for keys and values, in units of 10**9 bytes; see `TransformersEngine` and `vllm.open_llm`,
        which also have a default for None. Servers and an engine of your own do not look at it.

    Raises `ConfigError` for a name that stands for no engine, or a model or an engine that cannot be made.
    """
    from .models import eos_token_ids, load_model, load_skeleton, resolve_model

    urls = server_urls(engine)
    if engine == "transformers" or is_dotted_path(engine):
        if engine != "transformers":
            load_object(engine, "engine")  # so that a misspelt path is an error before the model is loaded
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
    """Makes torch use one thread for a small model.

    On a busy machine, threads that wait for each other after every small product take a hundred times as long.
    """
    if model.num_parameters() < SMALL_MODEL:
        import torch

        torch.set_num_threads(1)
