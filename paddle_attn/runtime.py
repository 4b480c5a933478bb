"""CPU settings that make Paddle fast. They must be made before Paddle is imported.

Paddle starts with one thread, its MKL takes a slow path on AMD, glibc maps and unmaps every large tensor, and
tensors lie in pages of 4 KB where Linux gives huge ones only to programs that ask. `tune()` changes all four.
It never overrides a user's setting, and does nothing with Paddle's GPU wheel.
`PADDLE_ATTN_TUNE=0` turns it off, `PADDLE_ATTN_TUNE=verbose` prints the settings. Importing this module does
not import Paddle.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_TOP_PAD": -2, "M_MMAP_MAX": -4}  # numbers from <malloc.h>
MADV_HUGEPAGE = 14  # from <sys/mman.h>
HUGE_PAGE = 2 << 20
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Machine:
    """The properties of a machine on which the plan depends."""

    system: str  # 'Linux', 'Darwin', 'Windows'
    libc: str  # 'glibc'; '' on other C libraries
    vendor: str  # 'AuthenticAMD', 'GenuineIntel'; '' if unknown
    flags: frozenset[str]  # CPU features, as in /proc/cpuinfo
    cores: int  # available to this process
    gpu: bool = False  # Paddle's GPU wheel is installed
    memory: int = 0  # bytes; 0 if unknown
    asks_for_huge_pages: bool = False  # Linux uses huge pages only where a program asks for them


@dataclass(frozen=True)
class Step:
    """One setting: an environment variable (`where='env'`), a parameter of malloc (`where='malloc'`), or
    bytes of the heap that get huge pages (`where='heap'`).
    """

    where: str
    name: str
    value: int
    why: str


def this_machine() -> Machine:
    """The properties of the machine this process runs on."""
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
                    break  # the first processor is enough
    except OSError:
        pass
    return Machine(
        platform.system(),
        platform.libc_ver()[0],
        vendor,
        flags,
        _cores(),
        _has_gpu_wheel(),
        _memory(),
        "[madvise]" in _text_of(HUGE_PAGES),
    )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _memory() -> int:
    kilobytes = re.search(r"^MemTotal:\s*(\d+) kB", _text_of(Path("/proc/meminfo")), re.MULTILINE)
    return 1024 * int(kilobytes[1]) if kilobytes else 0


def _has_gpu_wheel() -> bool:
    try:
        return bool(importlib.metadata.version("paddlepaddle-gpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _cores() -> int:
    """The number of cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="utf-8") as file:
            quota, period = file.read().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or 'max'
        return cores


def default_threads(machine: Machine, environ: Mapping[str, str]) -> int:
    """The number of threads of the math library: OMP_NUM_THREADS if set, otherwise all cores."""
    threads = environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() and int(threads) > 0 else machine.cores


def plan(machine: Machine, environ: Mapping[str, str]) -> list[Step]:
    """The settings for a machine and an environment. A pure function: it reads and changes nothing else."""
    if environ.get("PADDLE_ATTN_TUNE") == "0" or machine.gpu:
        return []
    steps = []
    # Paddle's launcher sets one thread, and PADDLE_LOCAL_SIZE: the processes that share this machine's cores
    processes = environ.get("PADDLE_LOCAL_SIZE", "")
    threads = machine.cores // int(processes) if processes.isdigit() and int(processes) else machine.cores
    omp_threads = environ.get("OMP_NUM_THREADS")
    if threads > 1 and (omp_threads is None or (omp_threads == "1" and processes)):
        steps.append(Step("env", "OMP_NUM_THREADS", threads, "Paddle starts with one thread"))
    if machine.vendor == "AuthenticAMD" and "MKL_DEBUG_CPU_TYPE" not in environ:
        if "avx512f" in machine.flags:
            steps.append(Step("env", "MKL_DEBUG_CPU_TYPE", 7, "MKL does not use AVX-512 on AMD by default"))
        elif "avx2" in machine.flags:
            steps.append(Step("env", "MKL_DEBUG_CPU_TYPE", 5, "MKL does not use AVX2 on AMD by default"))
    user_sets_malloc = any(
        name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES") for name in environ
    )
    if machine.system == "Linux" and machine.libc == "glibc" and not user_sets_malloc:
        why = "keeps the memory of large tensors instead of mapping and unmapping it"
        steps += [
            Step("malloc", "M_MMAP_MAX", 0, why),
            Step("malloc", "M_TRIM_THRESHOLD", -1, why),
            Step("malloc", "M_TOP_PAD", 256 << 20, why),
        ]
        if machine.asks_for_huge_pages and machine.memory:
            why = "large tensors need fewer entries of the processor's page table"
            steps.append(Step("heap", "HUGE_PAGES", machine.memory // 2, why))
    return steps


def tune() -> list[Step]:
    """Apply the plan for this machine, import Paddle and return the applied steps.

    Call it before Paddle is imported. It imports Paddle itself, to hide what Paddle says about the settings.
    """
    steps = plan(this_machine(), os.environ)
    if "paddle" in sys.modules:  # too late for environment variables: its threads and MKL are set up
        steps = [step for step in steps if step.where != "env"]
    libc = ctypes.CDLL(None) if any(step.where != "env" for step in steps) else None
    for step in steps:
        if step.where == "env":
            os.environ[step.name] = str(step.value)
        elif step.where == "malloc":
            libc.mallopt(MALLOPT[step.name], step.value)
        else:
            _use_huge_pages(step.value)
    if os.environ.get("PADDLE_ATTN_TUNE") == "verbose":
        for step in steps:
            print(f"paddle_attn.runtime: {step.name}={step.value} ({step.why})", file=sys.stderr)
    if steps and importlib.util.find_spec("paddle"):
        import_paddle()
    return steps


@functools.cache
def _use_huge_pages(size: int) -> None:
    """Enlarge the heap, once, by addresses that get huge pages when they are used; no memory is used before.

    Large tensors must come from the heap (M_MMAP_MAX).
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(size))
    if block is None:  # a limit on addresses
        return
    start = -(-block // HUGE_PAGE) * HUGE_PAGE
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(block + size - start), MADV_HUGEPAGE)
    # malloc_trim, which protobuf calls, cuts off the free end of the heap: let something unused lie above
    below = []
    while (unused := libc.malloc(ctypes.c_size_t(HUGE_PAGE))) and unused < block:
        below.append(unused)
    for address in (block, *below):
        libc.free(ctypes.c_void_p(address))


def import_paddle() -> None:
    """Import Paddle without its comment on OMP_NUM_THREADS; others are printed."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            import paddle  # noqa: F401
    finally:
        for line in stderr.getvalue().splitlines():
            if "OMP_NUM_THREADS" not in line:
                print(line, file=sys.stderr)
