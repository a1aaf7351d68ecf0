"""Engines by name: which kind a name stands for, and engines of the user's own."""

from pathlib import Path
from typing import Any

import pytest

from helpers import own_engine
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
