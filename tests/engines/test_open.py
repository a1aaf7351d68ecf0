"""Engines by name: which kind a name stands for, and engines of the user's own."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from helpers import own_engine
from helpers.places import ROOT
from ibtpo.engines import Sampling
from ibtpo.engines.models import load_model
from ibtpo.engines.open import is_dotted_path, make_engine, open_engine, server_urls
from ibtpo.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "dotted"),
    [
        ("mytask:engine", True),
        ("mypkg.engines:Engine", True),
        ("transformers", False),
        ("vllm", False),
        ("host:8000", False),
        ("host:8000,host:8001", False),
        ("http://host:8000", False),
        ("http://10.0.0.1:8000,http://10.0.0.2:8000", False),
        ("mytask:", False),
    ],
)
def test_a_dotted_path_is_told_from_a_servers_url(name: str, dotted: bool) -> None:
    assert is_dotted_path(name) is dotted
    if dotted:
        assert server_urls(name) == []


def test_the_factory_gets_the_loaded_model_its_tokenizer_and_the_number_of_requests(tiny_model: Path) -> None:
    engine, tokenizer = open_engine("helpers.own_engine:make", str(tiny_model), device="cpu", max_in_flight=7)
    assert engine is own_engine.MADE[-1]
    assert type(own_engine.MADE[-1].model).__name__ == "LlamaForCausalLM"
    assert own_engine.MADE[-1].tokenizer is tokenizer
    assert own_engine.MADE[-1].max_in_flight == 7


def test_an_engine_that_only_defines_generate_has_the_rest_by_default() -> None:
    engine = own_engine.make(None, None, max_in_flight=1)
    assert (engine.max_length, engine.busy_seconds, engine.logprobs) == (None, 0.0, "full")
    assert engine.reset_cache() is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("helpers.own_engine:mke", "own_engine:mke"),
        ("no.such.module:make", r"no\.such\.module"),
        ("helpers.own_engine:fail", r"engine 'helpers\.own_engine:fail' cannot be made: OSError: no such device"),
        (
            "helpers.own_engine:no_engine",
            r"returned a Sampler, which has no reset_cache, max_length, busy_seconds, logprobs; let its class inherit "
            r"from ibtpo\.Engine",
        ),
    ],
)
def test_a_factory_that_cannot_be_used_is_named(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(path, None, None, max_in_flight=1)


def test_a_misspelt_path_is_told_before_the_model_is_loaded() -> None:
    with pytest.raises(ConfigError, match="own_engine:mke"):
        open_engine("helpers.own_engine:mke", "/no/such/model")


def test_a_name_that_is_no_engine_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'transfromers'; did you mean 'transformers'"):
        open_engine("transfromers", "nano")


def test_every_engine_of_ours_fulfils_the_protocol() -> None:
    pytest.importorskip("torch")
    from ibtpo.engines import Engine
    from ibtpo.engines.scripted import ScriptedEngine
    from ibtpo.engines.server import ServerEngine
    from ibtpo.engines.transformers import TransformersEngine
    from ibtpo.engines.vllm import VLLMEngine

    kinds: list[Any] = [ScriptedEngine, ServerEngine, TransformersEngine, VLLMEngine]
    assert all(Engine in kind.__mro__ for kind in kinds)


def test_the_engine_in_the_documentation_samples_from_the_model(tiny_model: Path) -> None:
    torch = pytest.importorskip("torch")
    docs = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n# myengine\.py\n(.*?)```", docs, re.DOTALL)
    module: dict[str, Any] = {}
    exec(compile(source, "myengine.py", "exec"), module)
    model, tokenizer = load_model(str(tiny_model), device="cpu")
    engine = module["make"](model, tokenizer, max_in_flight=4)
    first, again = (asyncio.run(engine.generate([2, 3], Sampling(1.0, 1.0, 0), 5, 12)) for _ in range(2))
    assert first == again
    assert first.stop_reason == ("eos" if first.token_ids[-1] == tokenizer.eos_token_id else "length")
    with torch.no_grad():
        full = model(torch.tensor([[2, 3, *first.token_ids]])).logits[0, 1:-1].log_softmax(-1)
    expected = full.gather(-1, torch.tensor(first.token_ids)[:, None])[:, 0].tolist()
    assert first.logprobs == pytest.approx(expected, abs=1e-5)
