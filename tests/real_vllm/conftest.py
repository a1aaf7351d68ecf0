"""Real vLLM, on any machine vLLM runs on: `make test-vllm`. One file a process: vLLM leaves its marks on the process.

Not collected by plain pytest. Not named after the package either: a folder of that name on the path passes for it.
"""

import os

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",  # compiling costs more than these tests run
    }
)

import pytest

pytest.importorskip("vllm", reason="real vLLM tests: run them with `make test-vllm`")
