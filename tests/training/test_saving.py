"""A model that cannot be saved is mended or refused before the first step; a folder is saved whole or not at all."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from ibtpo.errors import CheckpointError, ConfigError
from ibtpo.training.saving import make_saveable, whole_folder, writing


@pytest.mark.parametrize(
    "unused",
    [
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
        {"top_k": 20, "min_p": 0.1, "typical_p": 0.5},
        {"length_penalty": 0.5, "early_stopping": True},
        {"do_sample": True, "length_penalty": 2.0},
    ],
)
def test_options_that_do_nothing_are_dropped(tmp_path: Path, unused: dict[str, object]) -> None:
    config = GenerationConfig(eos_token_id=7, repetition_penalty=1.1, **unused)
    with pytest.raises(ValueError, match="used in"):
        config.validate(strict=True)
    make_saveable(SimpleNamespace(generation_config=config))
    config.save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert (read.eos_token_id, read.repetition_penalty, read.do_sample) == (7, 1.1, config.do_sample)


def test_options_that_do_something_stay() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.6, num_beams=2, length_penalty=0.5)
    make_saveable(SimpleNamespace(generation_config=config))
    assert (config.do_sample, config.temperature, config.length_penalty) == (True, 0.6, 0.5)


def test_a_configuration_that_cannot_be_mended_is_refused_on_one_line() -> None:
    config = GenerationConfig()
    config.num_return_sequences = 3
    with pytest.raises(
        ConfigError, match=r"^the model's generation_config.json .*mend it: .*num_return_sequences"
    ) as e:
        make_saveable(SimpleNamespace(generation_config=config))
    assert "\n" not in str(e.value)
    make_saveable(SimpleNamespace(generation_config=None))


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for text in ("old", "new"):
        with whole_folder(model) as part:
            (part).mkdir()
            (part / "weights").write_text(text)
            assert not model.exists() or (model / "weights").read_text() == "old"
        assert (model / "weights").read_text() == text

    def fill() -> None:
        with whole_folder(model) as part:
            part.mkdir()
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"model.part cannot be written: OSError: .*go on with --resume"):
        fill()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (model / "weights").read_text() == "new"


def test_half_a_checkpoint_is_removed_and_named(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path / "checkpoint-8"):
            (tmp_path / "checkpoint-8").mkdir()
            raise RuntimeError("file write failed")

    with pytest.raises(CheckpointError, match=r"checkpoint-8 cannot be written: RuntimeError: file write failed"):
        fill()
    assert not list(tmp_path.iterdir())
