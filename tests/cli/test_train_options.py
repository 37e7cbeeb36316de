"""train.py as a user types it: right options, wrong options, exit statuses."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner

import train
from dnnlib.interrupt import StoppedInOrder
from tests.support.analysis import make_pairs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four 32x32 RGB images with labels."""
    folder = tmp_path_factory.mktemp("cli") / "dots"
    folder.mkdir()
    for i in range(4):
        PIL.Image.new("RGB", (32, 32), color=(i, 0, 0)).save(folder / f"{i}.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(4)]}))
    return folder


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(train.main, list(arguments))


def dry(data: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of a dry run."""
    result = invoke(f"--data={data}", "--dry-run", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Any, message: str) -> None:
    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert result.stderr.endswith(errors[0] + "\n")


@pytest.mark.parametrize(
    "spelling",
    [
        (
            "--reg_type=ggdr",
            "--ggdr_res=8",
            "--map_depth=3",
            "--allow_tf32=1",
            "--mbstd_group=2",
            "--dry_run",
        ),
        ("--reg-type=ggdr", "--ggdr-res=8", "--map-depth=3", "--allow-tf32=1", "--mbstd-group=2", "-n"),
        (
            "--reg_type",
            "ggdr",
            "--ggdr-res",
            "8",
            "--map_depth",
            "3",
            "--allow-tf32",
            "true",
            "--mbstd-group",
            "2",
            "--dry-run",
        ),
    ],
)
def test_options_may_be_spelled_with_either_dash(data: Path, spelling: tuple[str, ...]) -> None:
    result = invoke(f"--data={data}", *spelling)
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    assert config["ggdr"]["resolution"] == 8
    assert config["generator"]["map_layers"] == 3
    assert config["runtime"]["allow_tf32"] is True
    assert config["discriminator"]["mbstd_group"] == 2


def test_every_option_of_the_contract_is_there() -> None:
    contract = (
        "--outdir --gpus --snap --metrics --seed -n --dry-run --data --cond --subset --mirror --cfg --gamma "
        "--kimg --batch --aug --p --target --augpipe --resume --freezed --fp32 --nhwc --nobench --allow-tf32 "
        "--workers --reg_type --ggdr_res --cbase --cmax --map-depth --glr --dlr --mbstd-group --tick "
        "--device --ggdr-weight --ggdr-start-kimg --detector"
    )
    spelled = {name for parameter in train.main.params for name in parameter.opts}
    assert set(contract.split()) <= spelled


def test_data_options(data: Path) -> None:
    config = dry(data, "--cond=1", "--subset=3", "--mirror=1", "--seed=9")
    assert config["data"] == {
        "path": str(data),
        "resolution": 32,
        "num_channels": 3,
        "label_dim": 2,
        "num_images": 6,
        "use_labels": True,
        "max_size": 3,
        "xflip": True,
        "random_seed": 9,
        "annotation_classes": 0,
    }
    assert config["seed"] == 9
    assert config["description"] == "dots-cond-subset3-mirror-auto1"


@pytest.mark.parametrize(
    ("text", "names"),
    [("none", []), ("fid5k_full", ["fid5k_full"]), ("fid5k_full, pr5k3_full", ["fid5k_full", "pr5k3_full"])],
)
def test_metrics(data: Path, text: str, names: list[str]) -> None:
    assert dry(data, f"--metrics={text}")["metrics"]["names"] == names


def test_a_dry_run_prints_json_alone_on_stdout_and_makes_nothing(data: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "runs"
    result = invoke(f"--data={data}", f"--outdir={outdir}", "-n", "--gpus=8", "--reg_type=ggdr", "--batch=32")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["runtime"]["gpus"] == 8
    assert "32x32, 3 channels" in result.stderr
    assert "Note: --ggdr_res=8 was chosen" in result.stderr
    assert "Note: The data set has labels, which are not used" in result.stderr
    assert not outdir.exists()


def test_labels_that_are_used_need_no_note(data: Path) -> None:
    assert "has labels" not in invoke(f"--data={data}", "-n", "--cond=1").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ggdr_res=32", "--reg_type=ggdr"), "--ggdr_res=32 must be smaller than the images"),
        (("--ggdr_res=64", "--reg_type=ggdr"), "--ggdr_res=64 must be smaller than the images"),
        (("--ggdr_res=12", "--reg_type=ggdr"), "--ggdr_res=12 must be a power of two"),
        (("--ggdr_res=4", "--reg_type=ggdr"), "8 or larger"),
        (("--ggdr_res=8,32", "--reg_type=ggdr"), "--ggdr_res=32 must be smaller than the images"),
        (("--ggdr_res=8,8", "--reg_type=ggdr"), "'8,8' has a number twice"),
        (
            ("--ggdr_res=8,x", "--reg_type=ggdr"),
            "'8,x' is not a valid integer, or several by comma such as 16,32",
        ),
        (("--ggdr-kernel=5", "--reg_type=ggdr"), "--ggdr-kernel (ggdr.kernel_size) must be 1 or 3, not 5"),
        (("--ggdr-act=relu", "--reg_type=ggdr"), "'relu' is not one of 'linear', 'lrelu'"),
        (
            ("--reg_type=seg",),
            "images' is not there; a paired data set has the folders images and annotations",
        ),
        (("--p=0.2",), "--p=0.2 needs --aug=fixed"),
        (("--aug=fixed",), "--aug=fixed needs the probability"),
        (("--aug=noaug", "--augpipe=bg"), "contradicts"),
        (("--subset=5",), "--subset=5 must lie between 1 and 4"),
        (("--gpus=6",), "power of two"),
        (("--batch=9", "--gpus=2"), "divisible"),
        (("--metrics=none,fid5k_full",), "unknown metric 'none'"),
        (("--metrics=fid5k_half",), "unknown metric 'fid5k_half'"),
        (("--resume=nowhere.pkl",), "--resume=nowhere.pkl does not exist"),
        (
            ("--resume=ffhq128",),
            "--resume=ffhq128 does not exist; give a network pickle by path or http(s) address, or one of "
            "ffhq256",
        ),
        (("--cfg=paper128",), "'paper128' is not one of"),
        (("--kimg=many",), "'many' is not a valid float"),
        (("--gamma=nan",), "--gamma (loss.r1_gamma) must be a finite number"),
        (("--mirror=perhaps",), "'perhaps' is not a valid boolean"),
        (("--colour=1",), "No such option"),
    ],
)
def test_wrong_options(data: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(f"--data={data}", "--dry-run", *arguments)
    refused(result, message)
    assert result.stdout == ""


def test_ablations_of_ggdr(data: Path) -> None:
    config = dry(data, "--reg_type=ggdr", "--ggdr_res=16,8", "--ggdr_kernel=3", "--ggdr-act=lrelu")
    assert config["ggdr"] == {
        "resolution": [8, 16],
        "weight": 10,
        "start_kimg": 0,
        "kernel_size": 3,
        "activation": "lrelu",
    }
    assert config["description"] == "dots-auto1-ggdrres8+16-ggdrkernel3-ggdractlrelu"
    shown = invoke(f"--data={data}", "-n", "--reg_type=ggdr", "--ggdr_res=16,8", "--ggdr_kernel=3").stderr
    assert "feature maps at 8x8 and 16x16, weight 10, decoder of 3x3 convolutions, linear" in shown


def test_segmentation(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", count=4)
    result = invoke(
        f"--data={pairs}",
        "-n",
        "--reg-type=seg",
        "--seg_weight=2",
        "--mirror=1",
        "--subset=3",
        "--ggdr-weight=3",
    )
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    assert (config["seg"], config["ggdr"], config["description"]) == (
        {"weight": 2},
        None,
        "pairs-subset3-mirror-auto1-seg-segweight2",
    )
    assert (config["data"]["path"], config["data"]["annotation_classes"], config["data"]["num_images"]) == (
        str(pairs),
        2,
        6,
    )
    assert "2 classes, weight 2" in result.stderr
    assert "Note: --ggdr-weight without --reg_type=ggdr: no effect." in result.stderr


@pytest.mark.parametrize(
    ("folder", "message"),
    [("annotations", "only one of images and annotations"), (None, "or --reg_type=seg to use both")],
)
def test_pairs_that_cannot_be_used(tmp_path: Path, folder: str | None, message: str) -> None:
    pairs = make_pairs(tmp_path / "pairs", count=3)
    if folder is not None:
        (pairs / folder / "0001.png").unlink()
    chosen = [] if folder is None else ["--reg_type=seg"]
    refused(invoke(f"--data={pairs}", f"--outdir={tmp_path / 'runs'}", *chosen), message)
    assert not (tmp_path / "runs").exists()


def test_outdir_is_needed_to_train(data: Path) -> None:
    refused(invoke(f"--data={data}"), "--outdir is missing")


def test_data_is_needed() -> None:
    refused(invoke("--dry-run"), "Missing option '--data'")


def test_an_outdir_that_is_a_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_loop(monkeypatch, lambda *arguments: None)
    (tmp_path / "file").write_text("")
    refused(invoke(f"--data={data}", f"--outdir={tmp_path / 'file'}"), "cannot make a run directory")


def make_bad_data(root: Path, kind: str) -> Path:
    path = root / "bad"
    if kind == "no zip":
        path = root / "bad.zip"
        path.write_bytes(b"not a zip at all")
    elif kind != "missing":
        path.mkdir()
    if kind == "not square":
        PIL.Image.new("RGB", (32, 16)).save(path / "a.png")
    if kind == "odd size":
        PIL.Image.new("RGB", (48, 48)).save(path / "a.png")
    if kind == "no labels":
        PIL.Image.new("RGB", (32, 32)).save(path / "a.png")
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "no zip", "not square", "odd size", "no labels"])
def test_bad_data(tmp_path: Path, kind: str) -> None:
    path = make_bad_data(tmp_path, kind)
    result = invoke(
        f"--data={path}", f"--outdir={tmp_path / 'runs'}", *(["--cond=1"] if kind == "no labels" else [])
    )
    refused(result, str(path))
    assert not (tmp_path / "runs").exists()


def test_images_of_differing_sizes_stop_the_start(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed"
    path.mkdir()
    for i, size in enumerate((32, 16)):
        PIL.Image.new("RGB", (size, size)).save(path / f"{i}.png")
    refused(invoke(f"--data={path}", f"--outdir={tmp_path / 'runs'}"), "1.png")
    assert not (tmp_path / "runs").exists()


def install_loop(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    module = types.ModuleType("training.training_loop")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "training.training_loop", module)


def test_training_starts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    install_loop(
        monkeypatch, lambda config, run_dir, dataset, **options: seen.append((config, run_dir, dataset))
    )
    result = invoke(f"--data={data}", f"--outdir={tmp_path}", "--reg_type=ggdr", "--kimg=1", "--metrics=none")
    assert result.exit_code == 0, result.output
    [(config, run_dir, dataset)] = seen
    assert run_dir == tmp_path / "00000-dots-auto1-kimg1"
    assert config.ggdr.resolution == 8
    assert dataset.resolution == 32
    assert "Note: --ggdr_res=8 was chosen" in result.stdout


@pytest.mark.parametrize("metrics", [None, "none", "fid1k_full"])
def test_metrics_that_were_given_are_required(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: str | None
) -> None:
    seen: list[bool] = []
    install_loop(monkeypatch, lambda *arguments, metrics_required: seen.append(metrics_required))
    result = invoke(
        f"--data={data}", f"--outdir={tmp_path}", *([] if metrics is None else [f"--metrics={metrics}"])
    )
    assert result.exit_code == 0, result.output
    assert seen == [metrics is not None]


def test_a_detector_that_is_not_there_is_named_at_once(data: Path, tmp_path: Path) -> None:
    refused(
        invoke(f"--data={data}", f"--outdir={tmp_path / 'runs'}", "--detector=incepton", "--dry-run"),
        "no detector 'incepton'",
    )
    assert invoke(f"--data={data}", "--detector=incepton", "--metrics=None", "--dry-run").exit_code == 0


@pytest.mark.parametrize("in_order", [False, True])
def test_ctrl_c_ends_with_130_and_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise StoppedInOrder("Stopped at ...") if in_order else KeyboardInterrupt

    install_loop(monkeypatch, run)
    result = invoke(f"--data={data}", f"--outdir={tmp_path}")
    assert result.exit_code == 130
    assert result.stderr == (
        "" if in_order else "Interrupted. What was already saved stays in the run directory.\n"
    )


def test_offline_forbids_downloads(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "GGDR_OFFLINE", ""
    )  # for monkeypatch to restore: --offline is for the rest of the process
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    result = invoke(
        f"--data={data}", f"--outdir={tmp_path / 'runs'}", "--offline", "--resume=ffhq256", "--metrics=none"
    )
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "switched off by --offline" in result.stderr
    assert not (tmp_path / "runs").exists()


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, train; train.main(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    result = shell("-c", code)
    assert result.returncode == 0, result.stderr
    assert "--reg_type" in result.stdout


def test_as_a_program(data: Path, tmp_path: Path) -> None:
    good = shell(
        "train.py",
        f"--data={data}",
        "--dry-run",
        "--cfg=cifar",
        "--gpus=2",
        "--reg_type=ggdr",
        "--ggdr_res=8",
    )
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["schedule"]["batch_gpu"] == 32
    bad = shell("train.py", f"--data={tmp_path / 'missing'}", f"--outdir={tmp_path / 'runs'}")
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (1, "", 1)
    assert bad.stderr.startswith("Error: ")
    assert not (tmp_path / "runs").exists()
