"""The demo runs from end to end and never deletes what is not its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools import demo

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    result = CliRunner().invoke(demo.main, [f"--outdir={tmp_path}"])
    assert result.exit_code == 1
    assert "not from a demo" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "all of it"

    result = CliRunner().invoke(demo.main, [f"--outdir={tmp_path / 'thesis.txt'}"])
    assert result.exit_code == 1
    assert "is a file, or has files that are not from a demo" in result.output


def test_an_earlier_demo_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "call", stop)
    folder = tmp_path / "demo"
    for _ in range(2):
        assert CliRunner().invoke(demo.main, [f"--outdir={folder}"]).exit_code in (1, 130)
        assert [path.name for path in folder.iterdir()] == [".demo"]
        (folder / "00000-run").mkdir()
        (folder / "old.png").touch()


@pytest.mark.slow
def test_end_to_end_in_miniature(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    command = [sys.executable, "tools/demo.py", f"--outdir={tmp_path / 'demo'}", "--kimg=0.032"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fid1k_full" in done.stdout
    assert "Generated, after training:" in done.stdout
    assert len(list((tmp_path / "demo" / "generated").glob("seed*.png"))) == 16
    assert len(list((tmp_path / "demo").glob("00*"))) == 1
