"""The CPU as a platform of verl's, so that its whole `main_ppo` runs without an accelerator: for tests only.

verl imports this module in each of its processes (VERL_USE_EXTERNAL_MODULES), before `cpu_rollout`, for verl's own
modules ask for the platform while they are imported. gloo stands in for NCCL, and Ray's resource "GPU" is made up.
"""

import contextlib
import types
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def nothing(*_: Any, **__: Any) -> None:
    """Stands for what has no meaning on a CPU."""


# torch.cpu, with what verl asks of an accelerator's module besides.
device_module = types.ModuleType("cpu_device")
device_module.__dict__.update(torch.cpu.__dict__)
device_module.__dict__.update(
    dict.fromkeys(
        ("empty_cache", "set_device", "synchronize", "ipc_collect", "reset_peak_memory_stats", "manual_seed_all"),
        nothing,
    )
)
for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"):
    setattr(device_module, name, lambda *_: 0)
device_module.mem_get_info = lambda *_: (8 << 30, 8 << 30)  # type: ignore[attr-defined]
device_module.current_device = lambda: "cpu"  # type: ignore[attr-defined]
device_module.device_count = lambda: 1  # type: ignore[attr-defined]
device_module.is_available = lambda: True  # type: ignore[attr-defined]
device_module.is_bf16_supported = lambda: True  # type: ignore[attr-defined]
device_module.get_device_name = lambda *_: "cpu"  # type: ignore[attr-defined]
device_module.manual_seed = torch.manual_seed  # type: ignore[attr-defined]
device_module.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[attr-defined]
device_module.set_rng_state = lambda state, *_: torch.set_rng_state(state)  # type: ignore[attr-defined]


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """See verl's class; each method says what holds of a CPU."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = device_module
    set_device = synchronize = set_allocator_settings = empty_cache = nothing
    profiler_start = profiler_stop = cudart = nothing

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:  # type: ignore[override]
        return "cpu"

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "IBTPO_TEST_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return contextlib.nullcontext()

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def is_ipc_supported(self) -> bool:
        return False
