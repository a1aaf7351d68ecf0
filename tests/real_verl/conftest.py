"""Real verl, on two CPU cores: `make test-verl`, in an environment of its own. Not collected by plain pytest."""

import os

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_agent_register_timeout_ms": "600000",  # half a minute is short where two cores start ten processes
    }
)

import pytest

pytest.importorskip("verl", reason="tests with real verl: run them with `make test-verl`")
