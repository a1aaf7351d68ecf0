"""A scheduler's exports do not make one process several, and several are never taken for as many runs of one."""

import os

import pytest

from ibtpo.errors import ConfigError
from ibtpo.training.processes import alone_unless_launched, check_process_count, process_count

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, "ACCELERATE_MIXED_PRECISION"):
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


def test_a_scheduler_s_world_size_is_hidden_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    count, said, inside = found(monkeypatch, {"WORLD_SIZE": "2", "MASTER_ADDR": "node1"})
    assert count == 1
    assert not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(inside)
    (warning,) = said
    assert warning.startswith("WORLD_SIZE=2 in the environment, but no launcher started this process (RANK, ")
    assert warning.endswith("it trains alone; for several processes use accelerate launch")


@pytest.mark.parametrize(
    ("strays", "lacking"),
    [
        ({"RANK": "3"}, "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"LOCAL_RANK": "1"}, "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "node1"}, "MASTER_PORT"),
        (LAUNCHED | {"WORLD_SIZE": "two"}, "numbers"),
    ],
)
def test_a_rank_that_could_not_find_the_others_is_refused(
    monkeypatch: pytest.MonkeyPatch, strays: dict[str, str], lacking: str
) -> None:
    with pytest.raises(ConfigError, match=rf"\({lacking} missing\): each process would train alone"):
        found(monkeypatch, strays)


def test_processes_that_accelerate_did_not_bring_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_process_count(1)
    with pytest.raises(ConfigError, match="started 1 processes, but accelerate brought 2 together"):
        check_process_count(2)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    check_process_count(2)
    with pytest.raises(ConfigError, match=r"started 2 processes, .* brought 1 together.*ACCELERATE_USE_CPU"):
        check_process_count(1)


def test_accelerate_launch_that_started_one_process_for_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    check_process_count(1)
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # it sets them for several processes only
        monkeypatch.setenv(name, LAUNCHED[name])
    with pytest.raises(ConfigError, match=r"was to start several processes and started one, .* --num_processes 1"):
        check_process_count(1)


@pytest.mark.parametrize("strays", [{}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_variables_that_say_one_process_are_no_reason_to_warn(
    monkeypatch: pytest.MonkeyPatch, strays: dict[str, str]
) -> None:
    assert found(monkeypatch, strays) == (1, [], {})
