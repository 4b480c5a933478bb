"""A run that is killed again and again ends as an undisturbed one: three kills here, twenty by tests/soak/kills.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_three_kills_change_nothing(split_data: Path):
    command = [sys.executable, ROOT / "tests" / "soak" / "kills.py", "--kills", "3", "--data", split_data]
    result = subprocess.run([*command, "-o", "train.epochs=12", "train.batch_size=2"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "kills, 0 differences" in result.stdout
