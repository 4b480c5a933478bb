"""The CPU settings for each kind of machine, and a process that applies them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT

from paddle_attn.runtime import HUGE_PAGES, Machine, default_threads, plan

AMD = Machine("Linux", "glibc", "AuthenticAMD", frozenset({"avx2", "avx512f"}), 2)
OLD_AMD = Machine("Linux", "glibc", "AuthenticAMD", frozenset({"avx2"}), 8)
INTEL = Machine("Linux", "glibc", "GenuineIntel", frozenset({"avx2", "avx512f"}), 4)
ARM = Machine("Linux", "glibc", "", frozenset(), 4)
MUSL = Machine("Linux", "", "AuthenticAMD", frozenset({"avx2"}), 2)
MAC = Machine("Darwin", "", "", frozenset(), 8)
GPU = replace(AMD, gpu=True)
ONE_CORE = Machine("Linux", "glibc", "GenuineIntel", frozenset(), 1)
SMALL_PAGES = replace(ARM, memory=8 << 30, asks_for_huge_pages=True)

MALLOC = {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": -1, "M_TOP_PAD": 256 << 20}


@pytest.mark.parametrize(
    ("machine", "environ", "expected"),
    [
        (AMD, {}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 7} | MALLOC),
        (OLD_AMD, {}, {"OMP_NUM_THREADS": 8, "MKL_DEBUG_CPU_TYPE": 5} | MALLOC),
        (INTEL, {}, {"OMP_NUM_THREADS": 4} | MALLOC),
        (ARM, {}, {"OMP_NUM_THREADS": 4} | MALLOC),
        (MUSL, {}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 5}),
        (MAC, {}, {"OMP_NUM_THREADS": 8}),
        (ONE_CORE, {}, MALLOC),
        (AMD, {"OMP_NUM_THREADS": "1"}, {"MKL_DEBUG_CPU_TYPE": 7} | MALLOC),
        (
            OLD_AMD,
            {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "2"},
            {"OMP_NUM_THREADS": 4, "MKL_DEBUG_CPU_TYPE": 5} | MALLOC,
        ),
        (AMD, {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "2"}, {"MKL_DEBUG_CPU_TYPE": 7} | MALLOC),
        (
            OLD_AMD,
            {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "1"},
            {"OMP_NUM_THREADS": 8, "MKL_DEBUG_CPU_TYPE": 5} | MALLOC,
        ),
        (OLD_AMD, {"OMP_NUM_THREADS": "3", "PADDLE_LOCAL_SIZE": "2"}, {"MKL_DEBUG_CPU_TYPE": 5} | MALLOC),
        (AMD, {"MKL_DEBUG_CPU_TYPE": "5"}, {"OMP_NUM_THREADS": 2} | MALLOC),
        (SMALL_PAGES, {}, {"OMP_NUM_THREADS": 4, "HUGE_PAGES": 4 << 30} | MALLOC),
        (SMALL_PAGES, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, {"OMP_NUM_THREADS": 4}),
        (AMD, {"MALLOC_TOP_PAD_": "1"}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 7}),
        (AMD, {"LD_PRELOAD": "libjemalloc.so"}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 7}),
        (AMD, {"PADDLE_ATTN_TUNE": "0"}, {}),
        (GPU, {}, {}),
    ],
)
def test_the_plan_suits_the_machine_and_never_overrides_the_user(
    machine: Machine, environ: dict, expected: dict
):
    assert {step.name: step.value for step in plan(machine, environ)} == expected


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("", 2), ("0", 2), ("many", 2)])
def test_the_math_library_uses_the_threads_of_the_environment_or_all_cores(value: str, threads: int):
    assert default_threads(AMD, {"OMP_NUM_THREADS": value}) == threads


TUNE = """
import json, os
from paddle_attn import runtime
before = dict(os.environ)
steps = runtime.tune()
changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
print(json.dumps([[step.where, step.name, step.value] for step in steps]))
print(json.dumps(changed))
"""


def run(code: str, **environ: str) -> tuple[list[list], dict[str, str], str]:
    """Run the code in a new process, without settings: applied steps, changed variables, stderr."""
    tuned = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "PADDLE_ATTN_TUNE")
    clean = {name: value for name, value in os.environ.items() if name not in tuned}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, env=clean | environ, capture_output=True, text=True, check=True
    )
    return *map(json.loads, result.stdout.splitlines()), result.stderr


def test_tune_applies_its_steps_in_a_new_process():
    steps, changed, printed = run(TUNE, PADDLE_ATTN_TUNE="verbose")
    assert {name: str(value) for where, name, value in steps if where == "env"} == changed
    assert len(printed.splitlines()) == len(steps)


LARGE_TENSOR = """
import ctypes, json, re
from paddle_attn import runtime
before = int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1])
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if WITH_STEP:
    for name, value in (("M_MMAP_MAX", 0), ("M_TRIM_THRESHOLD", -1)):
        libc.mallopt(runtime.MALLOPT[name], value)
    block = libc.malloc(256 << 20)  # an earlier tensor
    libc.free(block)
    runtime._use_huge_pages(1 << 30)
    runtime._use_huge_pages(1 << 30)  # a process may be tuned again
after = int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1])
libc.malloc_trim(0)  # as protobuf does
tensor = bytearray(64 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(tensor)) + (32 << 20)
for area in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]:
    start, end = (int(bound, 16) for bound in area.split()[0].split("-"))
    if start <= address < end:
        flags = re.search("VmFlags:(.*)", area)[1].split()
print(json.dumps(flags))
print(json.dumps(after - before))
"""


@pytest.mark.skipif(sys.platform != "linux" or MUSL.libc == platform.libc_ver()[0], reason="needs glibc")
def test_a_large_tensor_lies_in_huge_pages_which_take_no_memory_before():
    if not HUGE_PAGES.exists():
        pytest.skip("this Linux has no transparent huge pages")
    flags, _, _ = run(LARGE_TENSOR.replace("WITH_STEP", "False"))
    assert "hg" not in flags
    flags, kilobytes, _ = run(LARGE_TENSOR.replace("WITH_STEP", "True"))
    assert "hg" in flags and kilobytes < 8 << 10


def test_tune_can_be_turned_off():
    assert run(TUNE, PADDLE_ATTN_TUNE="0") == ([], {}, "")


def test_tune_does_not_change_the_environment_after_paddle_is_imported():
    steps, changed, _ = run("import paddle\n" + TUNE)
    assert changed == {} and all(where != "env" for where, _, _ in steps)


def test_tune_imports_paddle_without_its_comments_on_the_settings():
    code = (
        "import sys; from paddle_attn import runtime; runtime.tune(); sys.exit('paddle' not in sys.modules)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "PADDLE_"))}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_first_name_that_needs_paddle_imports_it_without_a_comment():
    code = "import sys, paddle_attn; paddle_attn.list_attention(); sys.exit('paddle' not in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "PADDLE_"))}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_other_messages_of_an_import_of_paddle_are_printed(tmp_path: Path):
    (tmp_path / "paddle.py").write_text(
        "import sys, warnings\n"
        "print('WARNING: OMP_NUM_THREADS set to 2', file=sys.stderr)\n"
        "warnings.warn('No ccache found. Please')\n"
        "print('a driver is too old', file=sys.stderr)\n"
    )
    code = "from paddle_attn import runtime; runtime.import_paddle()"
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "a driver is too old\n")
