"""The 34 command lines of data/options.json resolve to the reference's numbers."""

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner

import train
from training.augment import presets as pipelines

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "options.json").read_text())


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set of one black image for each resolution, all called ``<data>``."""
    root = tmp_path_factory.mktemp("options")
    for resolution in {row["res"] for row in ROWS}:
        folder = root / str(resolution) / "<data>"
        folder.mkdir(parents=True)
        PIL.Image.new("RGB", (resolution, resolution)).save(folder / "0.png")
    return root


def dry_run(data_root: Path, row: dict[str, Any]) -> Any:
    """The result of ``train.py --dry-run`` with the arguments of a row."""
    arguments = [
        f"--{name}={int(value) if isinstance(value, bool) else value}" for name, value in row["args"].items()
    ]
    return CliRunner().invoke(
        train.main, ["--dry-run", f"--data={data_root / str(row['res']) / '<data>'}", *arguments]
    )


def reference_view(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration under the names of options.json. Values that G and D share are checked."""
    generator, discriminator, augment = config["generator"], config["discriminator"], config["augment"]
    for name in ("channel_base", "channel_max", "conv_clamp"):
        assert generator[name] == discriminator[name]
    operations = {} if augment["mode"] == "noaug" else pipelines.PRESETS[augment["pipe"]]
    return {
        "desc": config["description"],
        **{name: generator[name] for name in ("channel_base", "channel_max", "conv_clamp", "map_layers")},
        **{name: discriminator[name] for name in ("mbstd_group", "freeze_layers", "architecture")},
        "num_fp16_res_G": generator["num_fp16_res"],
        "num_fp16_res_D": discriminator["num_fp16_res"],
        **{name: config["loss"][name] for name in ("r1_gamma", "pl_weight", "style_mixing_prob")},
        **{name: config["optim"][name] for name in ("lr_G", "lr_D", "G_reg_interval", "D_reg_interval")},
        **{
            name: config["schedule"][name]
            for name in ("total_kimg", "batch_size", "batch_gpu", "ema_kimg", "ema_rampup")
        },
        "ggdr_res": None if config["ggdr"] is None else config["ggdr"]["resolution"],
        "ada_target": augment["target"],
        "ada_kimg": augment["kimg"],
        "augment_p": augment["initial_p"],
        "augment": sorted(name for name, strength in operations.items() if strength > 0),
    }


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the one deliberate difference: a default ``ggdr_res`` that small images cannot have."""
    values = {name: value for name, value in row.items() if name not in ("res", "args")}
    if values["ggdr_res"] == 64 and row["res"] <= 64 and "ggdr_res" not in row["args"]:
        values["ggdr_res"] = row["res"] // 4
    return values


def test_the_file_is_whole() -> None:
    assert len(ROWS) == 34
    assert sum("error" in row for row in ROWS) == 3


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "error" not in row], ids=lambda row: f"{row['res']}-{row['args']}"
)
def test_resolves_to_the_numbers_of_the_reference(data_root: Path, row: dict[str, Any]) -> None:
    result = dry_run(data_root, row)
    assert result.exit_code == 0, result.output
    found, wanted = reference_view(json.loads(result.stdout)), expected(row)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        is_float = isinstance(value, float)
        assert found[name] == (pytest.approx(value, rel=1e-12) if is_float else value), name


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "error" in row], ids=lambda row: f"{row['res']}-{row['args']}"
)
def test_refuses_what_the_reference_refuses(data_root: Path, row: dict[str, Any]) -> None:
    result = dry_run(data_root, row)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert any(f"--{name}" in result.stderr for name in row["args"])
