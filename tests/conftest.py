"""Fixtures shared by the tests: a tiny random model with a ten-letter vocabulary, made on the spot."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only get in each other's way
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.tiny_model import make_tiny_model
from ibtpo import cli

pytest_plugins = ["helpers.letter_questions", "helpers.malformed_place"]  # fixtures of several test files
if (llama := find_spec("llama_index")) and llama.submodule_search_locations:  # its wheel carries NLTK's punkt_tab
    folders = [str(Path(f) / "core" / "_static" / "nltk_cache") for f in llama.submodule_search_locations]
    os.environ["NLTK_DATA"] = os.pathsep.join([*folders, os.environ.get("NLTK_DATA", "")]).rstrip(os.pathsep)


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
