"""Build the fused operators with the address and undefined-behaviour sanitizers, and run their tests.

    python tests/soak/sanitizers.py [arguments of pytest]

The libraries go into a temporary cache. Exit code: that of pytest; a sanitizer's finding ends it with 1.
Needs GCC's libasan and libubsan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# not vptr: Paddle's own headers cast between types that two libraries define
CHECKS = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -g"
# the tests that start processes of their own: the cache, the compiler, memory that is missing
OTHERS = "not cache and not compile and not process and not mode and not home and not saves_only"


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        compiler = Path(folder) / "c++"
        compiler.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec c++ "$@" {CHECKS}\n')
        compiler.chmod(0o700)
        environment = os.environ | {
            "CXX": str(compiler),
            "PADDLE_ATTN_CACHE": str(Path(folder) / "cache"),
            "PADDLE_ATTN_OPS": "on",
            "LD_PRELOAD": " ".join(map(library, ["libasan.so", "libubsan.so"])),
            "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",  # both are of Python and Paddle
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        tests = ["-m", "pytest", "-q", "-s", "tests/unit/test_ops.py", "-k", OTHERS]
        return subprocess.run([sys.executable, *tests, *arguments], cwd=ROOT, env=environment).returncode


def library(name: str) -> str:
    """The path of one of GCC's libraries."""
    found = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
