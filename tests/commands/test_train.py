"""What `ibtpo train` prints at the end of a run."""

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

from ibtpo.commands.train import known_results
from ibtpo.training.launch import prepare

ROOT = Path(__file__).parents[2]


def test_the_recipes_own_run_is_told_what_grpo_and_ibtpo_reach_by_numbers_that_stand_in_the_results() -> None:
    known = json.loads((ROOT / "src/ibtpo/recipes/nano-walk.json").read_text())
    summary = json.loads((ROOT / known["source"] / "summary.json").read_text())
    for name, arm in (("GRPO", "grpo"), ("IB-TPO", "ibtpo")):
        assert known["arms"][name]["acc"] == pytest.approx(summary["arms"][arm]["acc"], abs=1e-4)
        assert known["arms"][name]["ci"] == pytest.approx(summary["arms"][arm]["ci"], abs=1e-4)
    assert (known["tokens"], known["problems"]) == (summary["tokens"], summary["problems"])
    for changes in ({}, {"seed": 7}, {"method": "grpo"}):
        text = known_results(prepare(None, changes, output="unused").settings)
        assert text is not None
        assert f"GRPO {100 * known['arms']['GRPO']['acc']:.1f} %" in text


@pytest.mark.parametrize("changes", [{"lam": 0.5}, {"learning_rate": 1e-3}, {"max_generated_tokens": 1000}])
def test_a_run_with_other_settings_is_told_nothing(changes: dict[str, float]) -> None:
    assert known_results(prepare(None, changes, output="unused").settings) is None


def test_a_run_in_processes_that_the_recipe_does_not_go_with_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = prepare(None, {"prompts_per_step": 15}, output="unused").settings
    for name, value in {
        "WORLD_SIZE": "3",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert known_results(settings) is None  # the recipe's 16 questions a step are not divided by 3
