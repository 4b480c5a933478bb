"""The runtime plan for each kind of machine, and that the act follows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import ROOT

from paddle_attn.runtime import Machine, plan

AMD = Machine("Linux", "glibc", "AuthenticAMD", frozenset({"avx2", "avx512f"}), 2)
OLD_AMD = Machine("Linux", "glibc", "AuthenticAMD", frozenset({"avx2"}), 8)
INTEL = Machine("Linux", "glibc", "GenuineIntel", frozenset({"avx2", "avx512f"}), 4)
ARM = Machine("Linux", "glibc", "", frozenset(), 4)
MUSL = Machine("Linux", "", "AuthenticAMD", frozenset({"avx2"}), 2)
MAC = Machine("Darwin", "", "", frozenset(), 8)
GPU = replace(AMD, gpu=True)
ONE_CORE = Machine("Linux", "glibc", "GenuineIntel", frozenset(), 1)

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
        (AMD, {"MALLOC_TOP_PAD_": "1"}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 7}),
        (AMD, {"LD_PRELOAD": "libjemalloc.so"}, {"OMP_NUM_THREADS": 2, "MKL_DEBUG_CPU_TYPE": 7}),
        (AMD, {"PADDLE_ATTN_TUNE": "0"}, {}),
        (GPU, {}, {}),
    ],
)
def test_the_plan_fits_the_machine_and_never_overrides_the_user(
    machine: Machine, environ: dict, expected: dict
):
    assert {step.name: step.value for step in plan(machine, environ)} == expected


def run(code: str, **environ: str) -> str:
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "PADDLE_ATTN_TUNE")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean | environ,
        capture_output=True,
        text=True,
        check=True,
    )


def test_tune_does_what_the_plan_says_in_a_fresh_process():
    code = (
        "import json, os; from paddle_attn import runtime; before = dict(os.environ); steps = runtime.tune();"
        "print(json.dumps([[s.where, s.name, s.value] for s in steps]));"
        "print(json.dumps({k: v for k, v in os.environ.items() if before.get(k) != v}))"
    )
    result = run(code, PADDLE_ATTN_TUNE="verbose")
    steps, changed = map(json.loads, result.stdout.splitlines())
    assert {name: str(value) for where, name, value in steps if where == "env"} == changed
    assert len(result.stderr.splitlines()) == len(steps)
    assert run(code, PADDLE_ATTN_TUNE="0").stdout.splitlines()[0] == "[]"


def test_after_paddle_was_imported_the_environment_is_left_alone():
    code = (
        "import paddle, os; from paddle_attn import runtime; before = dict(os.environ); steps = runtime.tune();"
        "assert before == dict(os.environ); print({step.where for step in steps})"
    )
    assert "env" not in run(code).stdout
