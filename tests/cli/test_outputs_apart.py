"""No command writes into the data that it reads, or over its own input."""

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner

from experiments import probe_segmentation, show_segmentation, visualize_features, worst_samples
from tools import make_paired_dataset, project
from train import main as train

COMMANDS = {
    "train": (train, ["--data={data}", "--outdir={data}/runs", "--device=cpu", "--metrics=none"]),
    "train pairs": (
        train,
        ["--data={data}", "--outdir={data}/runs", "--reg_type=seg", "--device=cpu", "--metrics=none"],
    ),
    "worst_samples": (worst_samples.main, ["--network=n.pkl", "--data={data}", "--outdir={data}/out"]),
    "visualize_features": (
        visualize_features.main,
        ["--network=n.pkl", "--data={data}", "--outdir={data}/out"],
    ),
    "probe_segmentation": (
        probe_segmentation.main,
        ["--network=a=n.pkl", "--data={data}", "--out={data}/probe"],
    ),
    "show_segmentation": (
        show_segmentation.main,
        ["--network=n.pkl", "--data={data}", "--out={data}/shown.png"],
    ),
    "make_paired_dataset": (
        make_paired_dataset.main,
        [
            "--images={data}/images",
            "--annotations={data}/annotations",
            "--dest={data}/annotations/out.zip",
            "--resolution=8",
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_inside_inputs_are_refused_at_the_start(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    for folder in ("images", "annotations"):
        if name != "train":
            (data / folder).mkdir(parents=True)
    data.mkdir(exist_ok=True)
    for i in range(2):
        for folder in ("images", "annotations") if name != "train" else ("",):
            PIL.Image.new("L", (16, 16), i).save(data / folder / f"{i}.png")
    before = sorted(tmp_path.rglob("*"))
    command, arguments = COMMANDS[name]
    result = CliRunner().invoke(command, [argument.format(data=data) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert "what is written would become part of the data; give a place outside it" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["target.png", "proj.png"])
def test_a_result_does_not_overwrite_the_target(tmp_path: Path, complaint: Any, target: str) -> None:
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / target)
    line = complaint(
        project.main, ["--network=n.pkl", f"--target={tmp_path / target}", f"--outdir={tmp_path}"]
    )
    assert f"would be overwritten by the result {target}" in line
