"""Fixtures of the verbs that sample: questions in letters for the tiny model, and the options that go with them."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory):
    """A folder with questions in letters and a verifier for them."""
    folder = tmp_path_factory.mktemp("letters")
    rows = [{"id": f"q{i}", "question": "abcdefghij"[i % 10] * (1 + i // 10)} for i in range(12)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "letter_reward.py").write_text(
        "def more_a(completions, **kwargs):\n    return [float(c.count('a') > c.count('b')) for c in completions]\n"
    )
    return folder


@pytest.fixture
def words(letters: Path, tiny_model: Path, monkeypatch) -> list[object]:
    """The options that sample and eval share here."""
    monkeypatch.syspath_prepend(str(letters))
    verifier = ["--verifier", "letter_reward:more_a", "--verifier-workers", 1]
    lengths = ["--temperature", 1, "--top-p", 1, "--top-k", 0, "--max-completion-length", 24]
    return ["--model", tiny_model, "--data", letters / "questions.jsonl", "--device", "cpu", *verifier, *lengths]
