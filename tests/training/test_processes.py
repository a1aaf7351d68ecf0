"""What a scheduler exported does not make one process train as one of several."""

import os

import pytest

from ibtpo.training.processes import alone_unless_launched, process_count

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def found(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> tuple[int, list[str], dict[str, str]]:
    """The number of processes, the warnings, and the launcher's variables inside the block."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    with alone_unless_launched(said.append):
        inside = {name: os.environ[name] for name in LAUNCHED if name in os.environ}
        count = process_count()
    assert {name: os.environ.get(name) for name in variables} == variables
    return count, said, inside


def test_a_launcher_s_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, LAUNCHED) == (2, [], LAUNCHED)


@pytest.mark.parametrize(
    "strays",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "3"},
        {"LOCAL_RANK": "1"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "node1"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
    ],
)
def test_a_scheduler_s_variables_are_hidden_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, strays: dict[str, str]
) -> None:
    count, said, inside = found(monkeypatch, strays)
    assert count == 1
    assert not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(inside)
    (warning,) = said
    assert all(f"{name}={value}" in warning for name, value in strays.items() if not name.startswith("MASTER"))
    assert "it trains alone; for several processes use accelerate launch" in warning


@pytest.mark.parametrize("strays", [{}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_variables_that_say_one_process_are_no_reason_to_warn(
    monkeypatch: pytest.MonkeyPatch, strays: dict[str, str]
) -> None:
    assert found(monkeypatch, strays) == (1, [], {})
