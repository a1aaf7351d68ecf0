"""Fixtures shared by the tests: a tiny random model with a ten-letter vocabulary, made on the spot."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only get in each other's way
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from ibtpo import cli

pytest_plugins = ["malformed_place"]  # fixtures of the tests of malformed input
if (llama := find_spec("llama_index")) and llama.submodule_search_locations:  # its wheel carries NLTK's punkt_tab
    folders = [str(Path(f) / "core" / "_static" / "nltk_cache") for f in llama.submodule_search_locations]
    os.environ["NLTK_DATA"] = os.pathsep.join([*folders, os.environ.get("NLTK_DATA", "")]).rstrip(os.pathsep)
DATA = Path(__file__).parents[1].parent / "shared" / "data"


def make_tiny_model(folder: Path, *, eos: bool = True) -> Path:
    """A two-layer Llama over the letters a to j, a space and a blank line that ends a step."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", *"abcdefghij", ".\n\n", " "])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\.\n\n|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", **({"eos_token": "<eos>"} if eos else {})}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1 if eos else None,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(w) for w in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
