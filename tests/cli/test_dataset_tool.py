"""``dataset_tool.py`` as its users run it: options right and wrong, what it prints, what it leaves behind."""

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import dataset_tool
from training.data.importing import ImportReport

ROOT = Path(__file__).resolve().parents[2]
TOOL = str(ROOT / "dataset_tool.py")


def run(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", TOOL, *options], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with ``in/<class>/<n>.png``: 12 images of 20x16 in two classes, the first with alpha."""
    for i in range(12):
        path = tmp_path / "in" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (16, 20, 4 if i == 0 else 3)
        PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path


def test_folder_to_zip(work: Path) -> None:
    options = [
        "--source=in",
        "--dest=out.zip",
        "--transform=center-crop",
        "--resolution=8x8",
        "--labels=subfolders",
    ]
    done = run(*options, "--max-images=11", "--resize_filter=box", "--background=#00ff00", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout == "out.zip: 11 RGB images of 8x8, labels of 2\n"
        "  class 0 ('a'): 6 images\n  class 1 ('b'): 5 images\n"
    )
    with zipfile.ZipFile(work / "out.zip") as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert labels[0] == ["00000/img00000000.png", 0]
        assert labels[-1] == ["00000/img00000010.png", 1]
        assert len(archive.namelist()) == 12
    assert sorted(p.name for p in work.iterdir()) == ["in", "out.zip"]


def test_resolution_is_width_and_height(work: Path) -> None:
    assert run("--source=in", "--dest=a.zip", "--resolution=8x8", cwd=work).returncode == 0
    assert (
        run("--source=in", "--dest=b.zip", "--width=8", "--height=8", "--workers=1", cwd=work).returncode == 0
    )
    assert (work / "a.zip").read_bytes() == (work / "b.zip").read_bytes()
    wide = run("--source=in", "--dest=c.zip", "--transform=center-crop-wide", "--resolution=16x8", cwd=work)
    assert wide.stdout == "c.zip: 12 RGB images of 16x16, no labels\n"


def test_skipped_images_are_listed(work: Path) -> None:
    (work / "in" / "a" / "04.png").write_bytes(b"nothing")
    stopped = run("--source=in", "--dest=out", "--resolution=8x8", cwd=work)
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("Error: 'a/04.png' in 'in' cannot be used:")
    assert not (work / "out").exists()
    done = run("--source=in", "--dest=out", "--resolution=8x8", "--on-error=skip", cwd=work)
    assert done.returncode == 0
    assert done.stderr.startswith("skipped 'a/04.png' in 'in': ")
    assert done.stdout == "out: 11 RGB images of 8x8, no labels, 1 skipped\n"
    assert len(list((work / "out" / "00000").iterdir())) == 11


WRONG = {
    "no source": (["--dest=out.zip"], 2, "Missing option '--source'"),
    "no dest": (["--source=in"], 2, "Missing option '--dest'"),
    "unknown option": (["--source=in", "--dest=out.zip", "--hieght=3"], 2, "No such option"),
    "unknown transform": (["--source=in", "--dest=out.zip", "--transform=crop"], 2, "center-crop-wide"),
    "unknown filter": (["--source=in", "--dest=out.zip", "--resize-filter=cubic"], 2, "lanczos"),
    "bad colour": (["--source=in", "--dest=out.zip", "--background=whiteish"], 2, "is no colour"),
    "bad resolution": (["--source=in", "--dest=out.zip", "--resolution=256"], 2, "not of the form WxH"),
    "no workers": (["--source=in", "--dest=out.zip", "--workers=0"], 2, "--workers"),
    "size given twice": (
        ["--source=in", "--dest=out.zip", "--resolution=8x8", "--width=8"],
        1,
        "one or the other",
    ),
    "crop without size": (
        ["--source=in", "--dest=out.zip", "--transform=center-crop"],
        1,
        "needs --width and --height",
    ),
    "no power of two": (
        ["--source=in", "--dest=out.zip", "--resolution=12x12"],
        1,
        "12x12; training needs squares",
    ),
    "images not square": (["--source=in", "--dest=out.zip"], 1, "'a/00.png' in 'in' would come out 20x16"),
    "missing source": (["--source=nowhere", "--dest=out.zip"], 1, "'nowhere' does not exist"),
    "no labels": (
        ["--source=in", "--dest=out.zip", "--resolution=8x8", "--labels=dataset.json"],
        1,
        "has no labels",
    ),
    "dest not empty": (["--source=in/a", "--dest=in/b", "--resolution=8x8"], 1, "is not empty"),
    "another archive": (
        ["--source=in", "--dest=out.tar", "--resolution=8x8"],
        1,
        ".tar files are not written; give a folder or",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_get_one_clear_line(work: Path, case: str) -> None:
    options, status, message = WRONG[case]
    before = sorted(work.rglob("*"))
    done = run(*options, cwd=work)
    error = next(line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert done.returncode == status
    assert message in error
    assert done.stdout == ""
    assert status == 2 or done.stderr == error + "\n"
    assert sorted(work.rglob("*")) == before


def stop_in_the_middle(
    tmp_path: Path, dest: str, number: signal.Signals, whole_group: bool
) -> tuple[int, str, str]:
    """Status, output and errors of an import that is sent a signal.

    The output ends when the last process that holds it ends.
    """
    images = struct.pack(">IIII", 0x803, 60000, 28, 28) + bytes(60000 * 28 * 28)
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    process = subprocess.Popen(
        [
            sys.executable,
            TOOL,
            "--source=t-images-idx3-ubyte.gz",
            f"--dest={dest}",
            "--labels=none",
            "--workers=2",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".out*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err.strip()


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, dest: str) -> None:
    assert stop_in_the_middle(tmp_path, dest, signal.SIGINT, whole_group=True) == (1, "", "Aborted!")
    assert [p.name for p in tmp_path.iterdir()] == ["t-images-idx3-ubyte.gz"]


@pytest.mark.parametrize("whole_group", [False, True])
def test_nor_does_sigterm(tmp_path: Path, whole_group: bool) -> None:
    line = "Stopped by SIGTERM; what was not finished is removed"
    assert stop_in_the_middle(tmp_path, "out.zip", signal.SIGTERM, whole_group) == (
        128 + signal.SIGTERM,
        "",
        line,
    )
    assert [p.name for p in tmp_path.iterdir()] == ["t-images-idx3-ubyte.gz"]


@pytest.mark.skipif(
    sys.platform != "linux", reason="there, nothing tells a process that its parent was killed"
)
def test_workers_end_with_a_process_that_was_killed(tmp_path: Path) -> None:
    assert stop_in_the_middle(tmp_path, "out.zip", signal.SIGKILL, whole_group=False) == (
        -signal.SIGKILL,
        "",
        "",
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("lanczos", (255, 255, 255))),
        (("--resize-filter=box", "--background=#0000ff"), ("box", (0, 0, 255))),
    ],
)
def test_options_reach_the_import(monkeypatch: pytest.MonkeyPatch, options: Any, expected: Any) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        dataset_tool, "import_dataset", lambda **given: found.update(given) or ImportReport(1, 8, 3, 0, [])
    )
    assert CliRunner().invoke(dataset_tool.main, ["--source=in", "--dest=out", *options]).exit_code == 0
    assert (found["transform"].resize_filter, found["background"]) == expected


def test_options_of_deep_and_of_large_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65
    PIL.Image.fromarray(values).save(tmp_path / "in" / "a.png")

    def made(*options: str) -> tuple[int, str]:
        arguments = [
            f"--source={tmp_path}/in",
            f"--dest={tmp_path}/out.zip",
            "--overwrite",
            "--workers=1",
            *options,
        ]
        done = CliRunner().invoke(dataset_tool.main, arguments)
        return done.exit_code, done.output

    status, output = made()
    assert status == 0
    assert (
        "Warning: the values of 1 image with 16 bits lie between 0 and 4095, and 65535 would be white"
        in output
    )
    status, output = made("--range=0-4095")
    assert (status, "Warning" in output) == (0, False)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive, archive.open("00000/img00000000.png") as stream:
        assert np.asarray(PIL.Image.open(stream)).max() == 255
    status, output = made("--max-pixels=63")
    assert status == 1
    assert "has 8x8 pixels, more than the 63 that are read; --max-pixels=64 reads it" in output
    for wrong in ("--range=5-1", "--range=high", "--max-pixels=0"):
        assert made(wrong)[0] == 2
