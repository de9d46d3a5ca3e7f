"""A platform "cpu" for verl, for these tests alone: it lets the FSDP2 engine run under gloo without a GPU.

Loaded into every process by ``VERL_USE_EXTERNAL_MODULES=cpu_platform`` and picked by ``VERL_PLATFORM=cpu``.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

_NOTHING = SimpleNamespace(
    max_memory_allocated=lambda *a: 0,
    max_memory_reserved=lambda *a: 0,
    memory_allocated=lambda *a: 0,
    memory_reserved=lambda *a: 0,
    mem_get_info=lambda *a: (0, 0),
    empty_cache=lambda: None,
    synchronize=lambda *a: None,
    current_device=lambda: torch.device("cpu"),
    set_device=lambda *a: None,
    device_count=lambda: 0,
    is_available=lambda: True,
    get_device_name=lambda *a: "cpu",
    get_rng_state=torch.get_rng_state,
    set_rng_state=torch.set_rng_state,
)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "none"
    device_module = _NOTHING

    def is_available(self):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 0

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg):
        return nullcontext()

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"  # what verl asks Ray for; tests that have workers tell Ray of as many

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None
