"""The memory that a training run needs on each GPU, item by item, computed before anything is loaded.

P parameters are counted on a model without weights. Of the paper's 8B model on eight GPUs: float32 weights, gradients,
Adam's two moments and a reference model take 20 bytes a parameter, so 164 GB on each GPU when every process keeps all
of them, and 20.5 GB when FSDP2 shards all. What activations and generated text need is bounded by the options, and
estimated from the model's shape. All sizes are in bytes, a GB is 10^9 of them.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .._text import table
from ..engines.models import resolve_model
from ..errors import ConfigError
from ..storage.recipes import accelerate_files
from ..storage.yaml_file import read_yaml
from .processes import process_count

# Configurations of the shipped recipes' models.
SHAPES = Path(__file__).parent.parent / "assets" / "shapes.yaml"

PROMPT_TOKENS = 512  # what a prompt may take beside an answer, where nothing says more
CONTEXT = 2e9  # CUDA's context, NCCL's buffers and what the allocator cannot use
LOGITS_AT_ONCE = 1024  # tokens
# DeepSpeed's defaults: how many gradients it reduces at once, and how many weights ZeRO-3 keeps gathered.
REDUCE_BUCKET, MAX_LIVE = 5e8, 1e9


@dataclass(frozen=True)
class Layout:
    """How a run is spread over processes, each with a GPU of its own.

    processes: N.
    sharding: "none" (every process keeps all), "fsdp2", "zero2" or "zero3".
    """

    processes: int = 1
    sharding: str = "none"

    @property
    def shards_weights(self) -> bool:
        """Whether each process keeps 1/N of the weights; gradients and moments are then sharded, too."""
        return self.sharding in ("fsdp2", "zero3")

    @property
    def shards_moments(self) -> bool:
        """Whether each process keeps 1/N of the gradients and of the optimizer's moments."""
        return self.sharding != "none"


@dataclass(frozen=True)
class Shape:
    """What a model's size follows from.

    parameters: P.
    trainable: those that are trained; fewer than P with an adapter.
    largest: parameters of its largest part that is gathered at once: a layer, or the embedding.
    layers, hidden, inner, vocabulary: layers, their width, the width of their MLPs, and the tokens.
    kv: numbers that a token leaves in the cache of keys and values.
    """

    parameters: int
    trainable: int
    largest: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    kv: int


@dataclass(frozen=True)
class Item:
    """A line of the table.

    what: what takes memory.
    size: bytes on each GPU.
    why: what they follow from.
    when: "always", or only while trees are sampled, "sampling", or while the policy is updated, "update".
    """

    what: str
    size: float
    why: str
    when: str = "always"


def shape_of(config: Any, adapter: Any = None) -> Shape:
    """The shape of a model, which is built without weights.

    config: its transformers configuration.
    adapter: a `peft.LoraConfig`, or None where all weights are trained.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        parameters = sum(p.numel() for p in model.parameters())
        parts = [model.get_input_embeddings(), *getattr(model.model, "layers", [model])]
        largest = max(sum(p.numel() for p in part.parameters()) for part in parts)
        trainable = parameters
        if adapter is not None:
            from peft import get_peft_model

            trainable = sum(p.numel() for p in get_peft_model(model, adapter).parameters() if p.requires_grad)
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters, trainable, largest, text.num_hidden_layers, text.hidden_size,
        getattr(text, "intermediate_size", None) or 4 * text.hidden_size, text.vocab_size,
        2 * text.num_hidden_layers * heads * width,
    )  # fmt: skip


def items_of(shape: Shape, layout: Layout, config: Any, dtype: str, gpu: float, half: int | None = None) -> list[Item]:
    """What a run needs on each GPU.

    shape: the model's.
    layout: how the run is spread.
    config: the run's `IBTPOConfig`.
    dtype: that of the weights, "float32" or "bfloat16".
    gpu: the bytes of a GPU, of which vLLM takes a share.
    half: bytes of a number in the arithmetic; by default 2 on a GPU, unless the run says otherwise.

    Raises `ConfigError` if vLLM's share does not hold the weights and one sequence.
    """
    n = layout.processes
    full = 4 if dtype == "float32" else 2
    if half is None:
        half = 2 if config.bf16 or config.fp16 or not torch.accelerator.is_available() else full
    weights, others = (n if on else 1 for on in (layout.shards_weights, layout.shards_moments))
    deepspeed = layout.sharding.startswith("zero")
    width = half if deepspeed else full
    p, trained = shape.parameters, shape.trainable
    moments = 12 if deepspeed else 8  # DeepSpeed keeps float32 weights of its own beside the two moments
    found = [
        Item("weights", width * p / weights, f"{p / 1e9:.3g} B, {width} bytes{_over(weights)}"),
        Item("optimizer", moments * trained / others, f"{trained / 1e9:.3g} B, {moments} bytes{_over(others)}"),
        Item(
            "gradients", width * trained / others, f"{trained / 1e9:.3g} B, {width} bytes{_over(others)}",
            "always" if layout.sharding == "zero3" else "update",
        ),
    ]  # fmt: skip
    if layout.sharding == "none" and n > 1:
        found.append(Item("reducer", full * trained, "DDP's own copy of the gradients"))
    if config.beta and trained == p:
        found.append(Item("reference model", width * p / weights, f"for beta {config.beta:g}{_over(weights)}"))
    if deepspeed:
        found += _deepspeed(shape, layout, width)
    elif layout.shards_weights:
        found.append(Item("gathered layers", 2 * half * shape.largest, "the largest one and the next", "update"))
    length = config.max_completion_length + PROMPT_TOKENS
    found += [_activations(shape, config, half, length), *_sampling(shape, layout, config, half, length, gpu)]
    return [*found, Item("CUDA", CONTEXT, "its context, NCCL, fragments")]


def _deepspeed(shape: Shape, layout: Layout, width: int) -> list[Item]:
    """What DeepSpeed holds beside its parts: gradients on their way to the process that keeps them, gathered weights.

    width: bytes of a weight.
    """
    bucket = Item("bucket", width * REDUCE_BUCKET, f"{REDUCE_BUCKET:.0e} gradients, reduced at once", "update")
    copy = width * min(shape.trainable, REDUCE_BUCKET)
    if layout.sharding == "zero2":
        # While the last bucket is reduced, what it leaves of the gradients is not stored yet.
        return [bucket, Item("reduction", copy - copy / layout.processes, "the bucket once more", "update")]
    live = width * min(shape.parameters, MAX_LIVE)
    return [
        replace(bucket, when="always"),
        Item("reduction", copy, "the bucket once more", "update"),
        Item("gathered layers", live, f"DeepSpeed keeps {MAX_LIVE:.0e} weights gathered", "update"),
    ]


def _activations(shape: Shape, config: Any, half: int, length: int) -> Item:
    """What the update keeps of a micro-batch: every layer's input, and what is inside one layer, or inside all."""
    tokens = config.per_device_train_batch_size * length
    inside = 8 * shape.hidden + 3 * shape.inner  # two norms, the attention's six, the MLP's three
    checkpoints = config.gradient_checkpointing
    kept = shape.layers * shape.hidden + inside if checkpoints else shape.layers * inside
    how = "with" if checkpoints else "without"
    logits = 2 * 4 * shape.vocabulary * min(tokens, LOGITS_AT_ONCE)  # in float32, and their gradient
    why = f"{config.per_device_train_batch_size} rows of {length} tokens that share nothing, {how} checkpoints"
    return Item("activations", half * kept * tokens + logits, why, "update")


def _sampling(shape: Shape, layout: Layout, config: Any, half: int, length: int, gpu: float) -> list[Item]:
    """What generating needs beside the update."""
    if config.use_vllm and config.vllm_mode == "server":
        return []
    if config.use_vllm:
        share, parallel = config.vllm_gpu_memory_utilization, config.vllm_tensor_parallel_size
        left = share * gpu - half * shape.parameters / parallel
        longest = config.vllm_max_model_length or length
        if left < (needed := half * shape.kv * longest / parallel):
            raise ConfigError(
                f"vllm_gpu_memory_utilization {share:g} of {gpu / 1e9:g} GB leaves {max(0.0, left) / 1e9:.1f} GB "
                f"beside the weights, and one sequence of {longest} tokens needs {needed / 1e9:.1f} GB; raise it, or "
                "lower vllm_max_model_length"
            )
        when = "sampling" if config.vllm_enable_sleep_mode else "always"
        return [Item("vLLM", share * gpu, f"{share:g} of the GPU: weights, keys and values", when)]
    rows = min(config.max_in_flight, config.generation_batch_size // layout.processes)
    size = half * shape.kv * rows * length + config.kv_memory_gb * 1e9
    why = f"{rows} answers of {length} tokens, and kv_memory_gb {config.kv_memory_gb:g}"
    found = [Item("keys and values", size, why, "sampling")]
    if layout.shards_weights:
        found.append(Item("gathered weights", half * shape.parameters, f"all, {half} bytes", "sampling"))
    return found


def _over(processes: int) -> str:
    return f", over {processes} GPUs" if processes > 1 else ""


def certain(items: Sequence[Item]) -> list[Item]:
    """The items that a run needs at any time, and its gradients: none depends on how long answers really are."""
    return [item for item in items if item.when == "always" or item.what == "gradients"]


def static(items: Sequence[Item]) -> float:
    """The bytes of the items that are certain."""
    return math.fsum(item.size for item in certain(items))


def peak(items: Sequence[Item]) -> float:
    """The bytes at the fullest moment, since sampling and update take turns."""
    turns = (math.fsum(i.size for i in items if i.when in ("always", turn)) for turn in ("sampling", "update"))
    return max(turns)


def refuse_what_cannot_fit(items: Sequence[Item], gpu: float) -> None:
    """Raises `ConfigError` if what a run needs at any time does not fit into a GPU.

    The rest is bounded by options and by how long answers really are, so it is shown and not refused.

    items: what a run needs on each GPU.
    gpu: its bytes.
    """
    needed = static(items)
    if needed > gpu:
        most = sorted(certain(items), key=lambda i: -i.size)[:4]
        parts = ", ".join(f"{item.what} {item.size / 1e9:.1f}" for item in most)
        raise ConfigError(
            f"a GPU of {gpu / 1e9:g} GB cannot hold the {needed / 1e9:.1f} GB that this run needs at any time "
            f"({parts}); shard it over more GPUs with FSDP2 or ZeRO-3, or train an adapter (lora_r)"
        )


def describe(items: Sequence[Item], layout: Layout, gpu: float) -> str:
    """The table of items as text, with what they come to, and a warning where that may be more than a GPU has."""
    spread = {"none": "each with all weights", "fsdp2": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}[layout.sharding]
    where = f"{layout.processes} GPUs, {spread}" if layout.processes > 1 else "one GPU"
    rows = [(i.what, i.why, "" if i.when == "always" else i.when, f"{i.size / 1e9:.2f}") for i in items]
    rows.append(("at most at once", "sampling and update take turns", "", f"{peak(items) / 1e9:.2f}"))
    lines = [f"memory of a GPU of {gpu / 1e9:g} GB, in GB ({where}):", table(rows, left=3)]
    if static(items) <= gpu < peak(items):
        lines.append(
            "warning: answers of the longest kind may not fit; lower rows_per_forward, max_in_flight or "
            "max_completion_length, or let vLLM sleep (vllm_enable_sleep_mode)"
        )
    return "\n".join(lines)


def gpu_size(gigabytes: Any) -> float:
    """The bytes of a GPU: as given, else of this machine's first, else 80 GB. Raises `ConfigError` for no number."""
    if gigabytes is None:
        return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 80e9
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float) or not 0 < gigabytes < math.inf:
        raise ConfigError(f"--gpu-memory-gb must be a number of GB above 0, got {gigabytes!r}")
    return gigabytes * 1e9


def config_of(model: str) -> Any:
    """The transformers configuration of a model by its name or folder; those of shipped recipes need no network.

    Returns None where it is not at hand.
    """
    from transformers import AutoConfig

    shipped = read_yaml(SHAPES)
    if model in shipped:
        return AutoConfig.for_model(**shipped[model])
    try:
        return AutoConfig.from_pretrained(resolve_model(model))
    except (OSError, ValueError):
        return None


def layout_of(file: str | os.PathLike[str] | None) -> Layout:
    """The layout that an accelerate file asks for; without a file, that of the launcher which started this process.

    file: as `accelerate config` writes it, or the name of a shipped one.

    Raises `ConfigError` for a file that is none, for a wrong number of processes, and for FSDP1.
    """
    if file is None:
        return _launched()
    asked = read_yaml(accelerate_files().get(str(file), Path(file)))
    processes = asked.get("num_processes", 1)
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ConfigError(f"{file}: num_processes must be a number and at least 1, got {processes!r}")
    kind = str(asked.get("distributed_type", "NO")).upper()
    if kind == "FSDP":
        version = (asked.get("fsdp_config") or {}).get("fsdp_version", 1)
        if str(version) != "2":
            raise ConfigError(f"{file}: fsdp_version is {version}; trees are trained with FSDP2: set fsdp_version: 2")
        return Layout(processes, "fsdp2")
    if kind == "DEEPSPEED":
        return Layout(processes, _zero((asked.get("deepspeed_config") or {}).get("zero_stage", 2)))
    return Layout(processes if kind.startswith("MULTI_") else 1)


def _launched() -> Layout:
    """The layout in the variables that `accelerate launch` sets."""
    processes = process_count()
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return Layout(processes, "fsdp2")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return Layout(processes, _zero(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")))
    return Layout(processes)


def _zero(stage: Any) -> str:
    return {"2": "zero2", "3": "zero3"}.get(str(stage), "none")
