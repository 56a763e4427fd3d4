"""What else a figure depends on: the machine, and the CPU time of each process of the system."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import date

import psutil


def machine(today: date) -> dict[str, str]:
    """What a figure is printed with."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": today.isoformat(),
        "cpu": f"{psutil.cpu_count()} x {model}",
        "memory": f"{memory:.0f} GiB",
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system CPU seconds so far, by process name; Postgres with its backends, ended ones included."""
    return {name: _tree_seconds(pid) for name, pid in pids.items()}


def _tree_seconds(pid: int) -> float:
    root = psutil.Process(pid)
    times = [root.cpu_times()]
    for child in root.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:
            continue
    ended = times[0].children_user + times[0].children_system
    return sum(t.user + t.system for t in times) + ended
