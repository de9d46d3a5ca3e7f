"""What this machine is: the dtypes that its CPU multiplies itself, and how much memory it has."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of x86 and of ARM; without them bfloat16 is computed as float32, with conversions on top."""


def cpu_flags(path: Path = CPUINFO) -> frozenset[str]:
    """Features that the first CPU names; none where the system does not say."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()


def has_bfloat16(path: Path = CPUINFO) -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    return bool(cpu_flags(path) & _BFLOAT16)


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
