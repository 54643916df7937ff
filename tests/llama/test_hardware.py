"""What a machine computes with, as llama-server lists it; and that no name of the machine is in it."""

import json
import platform

from llama.hardware import devices_of, hardware_of
from scoring.machines import Hardware

LISTED = """Available devices:
  CUDA0: NVIDIA H200 (143771 MiB, 143240 MiB free)
  CUDA1: NVIDIA GeForce RTX 3090 (24 GB) (24135 MiB, 23000 MiB free)
  Vulkan0: AMD Radeon Graphics
"""


def test_devices_are_read_from_the_list():
    assert devices_of(LISTED) == [
        ("CUDA0", "NVIDIA H200"),
        ("CUDA1", "NVIDIA GeForce RTX 3090 (24 GB)"),
        ("Vulkan0", "AMD Radeon Graphics"),
    ]
    assert devices_of("Available devices:\n  (none)\n") == []


def test_this_machine_has_a_processor_and_no_name(tools):
    machine = hardware_of(tools)
    Hardware.model_validate(machine)
    assert machine["cpu"] and machine["cores"] >= 1 and machine["backends"]
    assert platform.node() not in json.dumps(machine).split('"')
