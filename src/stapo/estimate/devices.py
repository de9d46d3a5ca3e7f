"""Devices by name: memory, arithmetic, bandwidth, as their makers state them."""

from __future__ import annotations

from dataclasses import dataclass

from stapo.errors import unknown_name

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        name: as it is asked for.
        memory: bytes.
        flops: dense bf16 operations a second at its peak (of a CPU: fp32, two cores).
        bandwidth: bytes a second from its memory.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


DEVICES = {
    d.name: d
    for d in (
        Device("h200", 141e9, 989e12, 4.8e12),
        Device("h100", 80e9, 989e12, 3.35e12),
        Device("a100-80", 80e9, 312e12, 2.0e12),
        Device("a100-40", 40e9, 312e12, 1.555e12),
        Device("l40s", 48e9, 362e12, 0.864e12),
        Device("rtx4090", 24e9, 165e12, 1.008e12),
        Device("cpu", 16e9, 0.1e12, 0.02e12),
    )
}
"""Peak numbers of the data sheets; "cpu" is a laptop with 16 GB."""


def find_device(name: str) -> Device:
    """The device of this name.

    Raises:
        UnknownNameError: no such device.
    """
    if name.lower() not in DEVICES:
        raise unknown_name("GPU", name, DEVICES)
    return DEVICES[name.lower()]
