"""The examples of docs/extending.md, followed to the letter in a copy of the program."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def section(title: str) -> str:
    """The text under a heading of the document."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str = "python") -> list[str]:
    """The code blocks of a section."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    return [code for marked, code in found if marked == language]


def insert(path: Path, text: str, *, after: str = "", before: str = "") -> None:
    """Put lines into a file, at the one place that a pattern matches."""
    content = path.read_text(encoding="utf-8")
    (place,) = re.finditer(after or before, content, re.DOTALL | re.MULTILINE)
    at = place.end() if after else place.start()
    path.write_text(content[:at] + text + content[at:], encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with the term, the option and the preset of the document."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("dnnlib", "torch_utils", "metrics", "training", "data"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", copy)
    options, build, presets = (
        copy / "training" / name for name in ("config/options.py", "build.py", "config/presets.py")
    )
    term, row, line, imports = blocks("A loss term")
    (new_file,) = re.findall(r"A new file, `(.+?)`", section("A loss term"))
    (copy / new_file).write_text(term, encoding="utf-8")
    (beta2,) = blocks("An option")
    insert(options, row + beta2, after=r'^    Option\("--seg-weight".*?\),\n(?=    (?:#|Option))')
    insert(build, line, before="^    return terms$")
    insert(build, imports, before="^from training.ggdr import")
    function, entry = blocks("A preset")
    insert(presets, f"{function}\n\n", before="^#:[^\n]*\n(?:#:[^\n]*\n)*PRESETS\\b|^PRESETS\\b")
    insert(presets, entry, after=r"^PRESETS\b[^\n]*\{\n")
    insert(presets, "from dataclasses import replace\n", before="^from dataclasses import")
    return copy


def run(copy: Path, command: str) -> str:
    """Run a command line of the document; its standard output."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loss_term_trains_and_continues(extended: Path) -> None:
    (commands,) = blocks("A loss term", "")
    start, go_on = commands.replace("\\\n", "").splitlines()
    run(extended, start)
    (run_dir,) = (extended / "fm-runs").iterdir()
    assert f"--continue=fm-runs/{run_dir.name} " in go_on
    run(extended, go_on)
    lines = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.008, 0.16, 0.32]
    for line in lines:
        values = line["Loss/G/loss_feature_matching"]
        assert values["num"] == line["Loss/G/loss"]["num"]
        assert values["mean"] > 0
    assert json.loads((run_dir / "training_options.json").read_text())["terms"] == {"feature_matching": 0.1}


def test_the_option_and_the_preset_work(extended: Path) -> None:
    output = run(
        extended,
        "python train.py --data=data/emoji32.zip --cfg=small256 --beta2=0.98 --dry-run --metrics=none",
    )
    config = json.loads(output)
    assert config["optim"]["beta2"] == 0.98
    assert (config["generator"]["channel_base"], config["schedule"]["batch_size"]) == (8192, 32)
    assert config["description"] == "emoji32-small256-beta20.98"
    assert "terms" not in config
