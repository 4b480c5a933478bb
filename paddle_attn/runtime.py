"""What must be set before Paddle is imported, so that it runs on a CPU as fast as it can.

Paddle starts with one thread, its MKL takes a slow path on AMD, and glibc maps and unmaps every large tensor. `tune()` mends the three. It
never overrides what the user has set (under Paddle's launcher one thread is the launcher's word), and does nothing where it does not apply, such
as beside a GPU. `PADDLE_ATTN_TUNE=0` switches it off, `PADDLE_ATTN_TUNE=verbose` prints what it did. This file does not import Paddle.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_TOP_PAD": -2, "M_MMAP_MAX": -4}  # <malloc.h>


@dataclass(frozen=True)
class Machine:
    """What the plan depends on."""

    system: str  # 'Linux', 'Darwin', 'Windows'
    libc: str  # 'glibc' or another
    vendor: str  # 'AuthenticAMD', 'GenuineIntel', '' where unknown
    flags: frozenset[str]  # the CPU's, as /proc/cpuinfo names them
    cores: int  # that this process may use
    gpu: bool = False  # Paddle's GPU wheel is the one that is installed


@dataclass(frozen=True)
class Step:
    """One setting: an environment variable (`where='env'`) or a parameter of malloc (`where='malloc'`)."""

    where: str
    name: str
    value: int
    why: str


def this_machine() -> Machine:
    """Read the machine that we run on."""
    vendor, flags = "", frozenset()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "vendor_id":
                    vendor = value.strip()
                elif key.strip() == "flags":
                    flags = frozenset(value.split())
                elif not line.strip():
                    break  # the first processor tells enough
    except OSError:
        pass
    return Machine(platform.system(), platform.libc_ver()[0], vendor, flags, _cores(), _has_gpu_wheel())


def _has_gpu_wheel() -> bool:
    try:
        return bool(importlib.metadata.version("paddlepaddle-gpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _cores() -> int:
    """How many cores this process may use: its affinity, and a container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="utf-8") as file:
            quota, period = file.read().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or 'max'
        return cores


def default_threads(machine: Machine, environ: Mapping[str, str]) -> int:
    """The threads of the math library: what the user has set, else all cores."""
    said = environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else machine.cores


def plan(machine: Machine, environ: Mapping[str, str]) -> list[Step]:
    """What to set on this machine in this environment. Pure: it reads and changes nothing."""
    if environ.get("PADDLE_ATTN_TUNE") == "0" or machine.gpu:
        return []
    steps = []
    beside = environ.get(
        "PADDLE_LOCAL_SIZE", ""
    )  # processes of the job on this machine; Paddle's launcher gives each one thread
    threads = machine.cores // int(beside) if beside.isdigit() and int(beside) else machine.cores
    said = environ.get("OMP_NUM_THREADS")
    if threads > 1 and (said is None or (said == "1" and beside)):
        steps.append(Step("env", "OMP_NUM_THREADS", threads, "Paddle starts with one thread"))
    if machine.vendor == "AuthenticAMD" and "MKL_DEBUG_CPU_TYPE" not in environ:
        if "avx512f" in machine.flags:
            steps.append(Step("env", "MKL_DEBUG_CPU_TYPE", 7, "MKL does not use AVX-512 on AMD unless told"))
        elif "avx2" in machine.flags:
            steps.append(Step("env", "MKL_DEBUG_CPU_TYPE", 5, "MKL does not use AVX2 on AMD unless told"))
    malloc_is_the_users = any(
        name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES") for name in environ
    )
    if machine.system == "Linux" and machine.libc == "glibc" and not malloc_is_the_users:
        why = "large tensors are kept, not mapped and unmapped each time"
        steps += [
            Step("malloc", "M_MMAP_MAX", 0, why),
            Step("malloc", "M_TRIM_THRESHOLD", -1, why),
            Step("malloc", "M_TOP_PAD", 256 << 20, why),
        ]
    return steps


def tune() -> list[Step]:
    """Apply the plan for this machine; call it before Paddle is imported. Returns the steps that were taken."""
    steps = plan(this_machine(), os.environ)
    if "paddle" in sys.modules:  # its threads and MKL are set up: the environment would come too late
        steps = [step for step in steps if step.where == "malloc"]
    libc = ctypes.CDLL(None) if any(step.where == "malloc" for step in steps) else None
    for step in steps:
        if step.where == "env":
            os.environ[step.name] = str(step.value)
        else:
            libc.mallopt(MALLOPT[step.name], step.value)
    if os.environ.get("PADDLE_ATTN_TUNE") == "verbose":
        for step in steps:
            print(f"paddle_attn.runtime: {step.name}={step.value} ({step.why})", file=sys.stderr)
    return steps
