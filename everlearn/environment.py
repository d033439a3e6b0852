"""Where a result comes from: versions, machine, threads."""

import platform

import torch

import everlearn


def environment() -> dict[str, str]:
    """What the last bits of a result depend on, besides its settings."""
    return {
        "everlearn": everlearn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
    }
