"""What a machine computes with: processor, cores it may use, and the devices that llama.cpp finds. Never its name."""

import os
import platform
import re
import subprocess
from pathlib import Path

from llama.llama_tools import LlamaCpp

# llama-server --list-devices: "  CUDA0: NVIDIA H200 (143771 MiB, 143240 MiB free)"
DEVICE = re.compile(r"^\s+([A-Za-z]+\d*): (.+?)(?: \(\d+ MiB.*\))?$", re.MULTILINE)
CPU_INFO = Path("/proc/cpuinfo")
CPU_NAME = re.compile(r"^model name\s*: (.+)$", re.MULTILINE)


def devices_of(listed: str) -> list[tuple[str, str]]:
    """Return each device in llama-server's list: as a flag names it, such as CUDA0, and what it is."""
    return [(match[1], match[2].strip()) for match in DEVICE.finditer(listed)]


def listed_devices(server: Path) -> list[tuple[str, str]]:
    """Return what `devices_of` does of the devices that a llama-server finds on this machine."""
    done = subprocess.run([server, "--list-devices"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return devices_of(done.stdout)


def hardware_of(tools: LlamaCpp) -> dict:
    """Return cpu, cores, gpus (a name each) and backends of this machine; without a GPU the backend is CPU."""
    devices = listed_devices(tools.tool("llama-server"))
    named = CPU_NAME.search(CPU_INFO.read_text(encoding="utf-8", errors="replace")) if CPU_INFO.is_file() else None
    return {
        "cpu": named[1].strip() if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [name for _, name in devices],
        "backends": sorted({device.rstrip("0123456789") for device, _ in devices}) or ["CPU"],
    }
