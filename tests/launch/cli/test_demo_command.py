"""What the demo prints without a terminal."""

from __future__ import annotations

import pytest

from aqvolt_launch.cli.demo import _plain_watch


def test_without_a_terminal_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    watch = _plain_watch(lambda: now)
    for second in range(36):
        now = float(second)
        watch("explore", 0, 1, "planning" if second < 2 else f"MD step {second} of 200")
    watch("explore", 1, 1, "finished")
    now = 46.0
    watch("sample", 0, 2, "")
    watch("sample", 2, 2, "already finished")
    assert capsys.readouterr().out.splitlines() == [
        "explore      0/1 MD step 10 of 200 (10 s)",
        "explore      0/1 MD step 20 of 200 (20 s)",
        "explore      0/1 MD step 30 of 200 (30 s)",
        "explore      1/1 finished (35 s)",
        "sample       0/2 running (0 s)",
        "sample       2/2 already finished (0 s)",
    ]
