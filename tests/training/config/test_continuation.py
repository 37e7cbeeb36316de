"""What a continued run may change, on how many GPUs it fits, and which run a command line means."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dnnlib.errors import UserError
from tests.support.runs import plain_data
from training.config.continuation import (
    check_has_state,
    check_owner,
    check_same_run,
    continued,
    differences,
    find_run,
    on_gpus,
    read_options,
)
from training.config.options import OPTIONS, as_options, overrides
from training.config.resolve import resolve
from training.config.schema import TrainConfig


def config(**given: Any) -> TrainConfig:
    return resolve(overrides(**given), images(given))


def images(given: Any) -> Any:
    return plain_data(annotation_classes=2 if given.get("reg_type") == "seg" else 0)


RUNS = [
    {},
    {
        "reg_type": "ggdr",
        "ggdr_res": 8,
        "ggdr_weight": 3,
        "ggdr_start_kimg": 1,
        "cfg": "paper256",
        "kimg": 3,
        "metrics": (),
    },
    {"reg_type": "ggdr", "ggdr_res": (8, 16), "ggdr_kernel": 3, "ggdr_act": "lrelu"},
    {"reg_type": "seg", "seg_weight": 2},
    {
        "aug": "fixed",
        "p": 0.3,
        "augpipe": "bg",
        "fp32": True,
        "batch": 8,
        "gamma": 2,
        "resume": "a.pkl",
        "freezed": 1,
        "seed": 3,
    },
    {
        "aug": "noaug",
        "cbase": 128,
        "cmax": 8,
        "map_depth": 3,
        "glr": 0.1,
        "dlr": 0.2,
        "mbstd_group": 2,
        "snap": 3,
        "tick": 1,
        "workers": 0,
    },
]


@pytest.mark.parametrize("given", RUNS)
def test_the_options_of_a_run_mean_the_run(given: Any) -> None:
    """``as_options`` gives the given values, and they resolve to the same configuration."""
    original = config(**given)
    options = as_options(original)
    assert {name: options[name] for name in given} == given
    data = {name: options.pop(name) for name in ("data", "cond", "subset", "mirror")}
    assert data == {"data": "images", "cond": False, "subset": 16, "mirror": False}
    assert (
        options.keys()
        == {option.parameter for option in OPTIONS if option.field or option.read} - data.keys()
    )
    again = resolve(overrides(**options), images(given))
    assert differences(original.to_dict(), again.to_dict()) == {}


def test_the_same_command_line_changes_nothing() -> None:
    for given in RUNS:
        assert continued(config(**given), overrides(**given, cond=None, data=None)) == config(**given)


def test_what_may_change() -> None:
    new = {
        "kimg": 9.0,
        "snap": 7,
        "metrics": ("kid5k_full",),
        "detector": "x",
        "workers": 1,
        "device": "cpu",
        "checkpoint_minutes": 1.5,
    }
    new |= {"keep_snapshots": "last:2", "on_nonfinite": "ignore", "data": "/elsewhere"}
    assert new.keys() | {"gpus"} == {option.parameter for option in OPTIONS if option.changeable}
    old = config()
    found = as_options(continued(old, new))
    assert {name: found[name] for name in new} == new
    assert {name: value for name, value in found.items() if name not in new} == {
        k: v for k, v in as_options(old).items() if k not in new
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"batch": 8}, "--batch: 32 → 8"),
        ({"cfg": "cifar"}, "--cfg: auto → cifar"),
        ({"reg_type": "ggdr"}, "--reg_type: none → ggdr"),
        ({"glr": 0.1, "seed": 5}, "--seed: 0 → 5"),
        ({"aug": "fixed", "p": 0.5}, "--aug: ada → fixed, --p: None → 0.5"),
        ({"map_depth": 8}, "--map-depth: 2 → 8"),
        ({"resume": "b.pkl"}, "--resume: noresume → b.pkl"),
        ({"mirror": True}, "--mirror: False → True"),
        ({"subset": 3}, "--subset: 16 → 3"),
        ({"fp32": True}, "--fp32: False → True"),
    ],
)
def test_what_must_stay_is_refused_with_the_difference(given: Any, shown: Any) -> None:
    with pytest.raises(UserError, match="a continued run keeps its options") as caught:
        continued(config(), {**given, "kimg": 9})
    assert shown in str(caught.value)
    assert "--kimg:" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_ggdr_without_ggdr_have_no_effect() -> None:
    assert continued(config(), {"reg_type": "none", "ggdr_res": 8}) == config()
    with pytest.raises(UserError, match="--ggdr_res: 8 → 16"):
        continued(config(reg_type="ggdr"), {"ggdr_res": 16})
    with pytest.raises(UserError, match="--ggdr_res: 8,16 → 8"):
        continued(config(reg_type="ggdr", ggdr_res=(8, 16)), {"ggdr_res": 8})
    assert continued(config(reg_type="seg"), {"ggdr_res": 8, "ggdr_act": "lrelu"}) == config(reg_type="seg")
    with pytest.raises(UserError, match="--seg-weight: 1 → 3"):
        continued(config(reg_type="seg"), {"seg_weight": 3})
    with pytest.raises(UserError, match="--reg_type: ggdr → seg"):
        continued(config(reg_type="ggdr"), {"reg_type": "seg", "ggdr_res": 16})


def test_new_values_are_checked_together() -> None:
    with pytest.raises(UserError, match="--keep-snapshots=best needs a metric"):
        continued(config(), {"keep_snapshots": "best", "metrics": ()})
    assert continued(
        config(metrics=()), {"keep_snapshots": "best", "metrics": ("fid5k_full",)}
    ).metrics.names == ("fid5k_full",)


@pytest.mark.parametrize(
    ("batch", "group", "gpus", "microbatch"),
    [
        (32, 4, 2, 16),
        (32, 4, 8, 4),
        (32, 4, 1, 32),
        (24, 4, 2, 12),
        (24, 8, 2, None),
        (32, 4, 16, None),
        (20, 4, 8, None),
        (40, 4, 2, 20),
    ],
)
def test_microbatches_in_other_numbers_of_processes(
    batch: Any, group: Any, gpus: Any, microbatch: Any
) -> None:
    run = config(batch=batch, mbstd_group=group)
    if microbatch is None:
        with pytest.raises(
            UserError,
            match=f"--gpus={gpus}: the run's batch of {batch} images, in groups of at least {group}",
        ):
            on_gpus(run, gpus)
        return
    went_on = continued(run, {"gpus": gpus})
    assert (went_on.schedule.batch_size, went_on.microbatch) == (batch, microbatch)


@pytest.mark.parametrize(
    ("batch", "group", "gpus", "possible"),
    [(32, 4, 16, "1, 2, 4, 8"), (24, 8, 2, "1"), (20, 4, 8, "1"), (40, 4, 3, "1, 2"), (32, 8, 0, "1, 2, 4")],
)
def test_a_refused_number_of_processes_comes_with_those_that_would_do(
    batch: Any, group: Any, gpus: Any, possible: Any
) -> None:
    run = config(batch=batch, mbstd_group=group)
    with pytest.raises(
        UserError, match=f"cannot be split into {gpus} equal parts; --gpus may be {possible}$"
    ):
        continued(run, {"gpus": gpus})
    for number in possible.split(", "):
        assert continued(run, {"gpus": int(number)}).runtime.gpus == int(number)


def test_microbatches_do_not_grow() -> None:
    """On fewer processes the same microbatches follow one another, so the draws stay the same."""
    run = config(cfg="paper256", gpus=8)
    assert on_gpus(run, 1).microbatch == run.microbatch == 8
    run = config(cfg="cifar", gpus=8)
    assert on_gpus(run, 8) == run
    assert on_gpus(run, 2).microbatch == run.microbatch == 8


def test_a_state_of_another_run() -> None:
    saved = config().to_dict()
    check_same_run(saved, config(kimg=9, workers=0, metrics=(), snap=2), "the state")
    with pytest.raises(UserError, match=r"the state belongs to another run \(optim.lr_G: 0.0025 → 0.1\)"):
        check_same_run(saved, config(glr=0.1), "the state")
    with pytest.raises(UserError, match=r"ggdr.resolution: None → 8"):
        check_same_run(saved, config(reg_type="ggdr"), "the state")
    with pytest.raises(UserError, match=r"the state is not from this version .* unknown keys \(colour\)"):
        check_same_run({**saved, "colour": 1}, config(), "the state")


def test_options_and_states_from_before_there_were_ablations(tmp_path: Path) -> None:
    """Their dictionaries lack the newer fields, and mean the defaults."""
    for now in (config(), config(reg_type="ggdr", ggdr_res=8)):
        old = now.to_dict()
        del old["seg"], old["data"]["annotation_classes"]
        if old["ggdr"]:
            del old["ggdr"]["kernel_size"], old["ggdr"]["activation"]
            assert old["ggdr"] == {"resolution": 8, "weight": 10, "start_kimg": 0}
        check_same_run(old, now, "the state")
        (tmp_path / "training_options.json").write_text(json.dumps(old))
        assert read_options(tmp_path) == now


def make_run(outdir: Any, number: Any, run: Any, state: Any = True) -> Any:
    path = outdir / f"{number:05d}-{run.description}"
    path.mkdir(parents=True)
    (path / "training_options.json").write_text(json.dumps(run.to_dict()))
    if state:
        (path / "training-state-0000000004.pt").touch()
    return path


def test_options_of_a_run_directory(tmp_path: Path) -> None:
    path = make_run(tmp_path, 3, config(kimg=2))
    assert read_options(path) == config(kimg=2)
    with pytest.raises(UserError, match=r"--continue=.*nowhere is not a folder"):
        read_options(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a run directory: it has no training_options.json"):
        read_options(tmp_path)
    (path / "training_options.json").write_text('{"G_kwargs": {}}')  # the reference's
    with pytest.raises(
        UserError,
        match=r"training_options.json is not from this version of the program: .*unknown keys \(G_kwargs\)",
    ):
        read_options(path)
    (path / "training_options.json").write_text("{")
    with pytest.raises(UserError, match=r"training_options\.json is no valid JSON"):
        read_options(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("total_kimg", 1e300),
        ("total_kimg", 10**400),
        ("batch_size", 2**70),
        ("kimg_per_tick", "1"),
        ("snapshot_ticks", True),
    ],
)
def test_options_of_any_size_and_type_are_refused(tmp_path: Path, field: Any, value: Any) -> None:
    path = make_run(tmp_path, 0, config())
    values = config().to_dict()
    values["schedule"][field] = value
    (path / "training_options.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"schedule\.{field}|is no valid JSON"):
        read_options(path)
    (path / "training_options.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested"):
        read_options(path)


@pytest.mark.parametrize("name", [".", "training_options.json", "training-state-0000000004.pt"])
def test_a_run_of_another_user_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    """Whichever part of it is theirs, and a link to theirs too."""
    path = make_run(tmp_path, 0, config())
    check_owner(path, trust=False)
    theirs = os.lstat(path / name)

    def foreign(found: Any) -> Any:
        return (
            os.stat_result([*found[:4], found.st_uid + 1, *found[5:]])
            if os.path.samestat(found, theirs)
            else found
        )

    stat, lstat = os.stat, os.lstat
    monkeypatch.setattr(Path, "stat", lambda self, **options: foreign(stat(self, **options)))
    monkeypatch.setattr(Path, "lstat", lambda self: foreign(lstat(self)))
    with pytest.raises(UserError, match=r"belongs to another user.*SECURITY\.md.*give --trust"):
        check_owner(path, trust=False)
    check_owner(path, trust=True)
    found, notes = find_run(tmp_path, config())
    assert found is None
    assert "give --trust" in notes[0]
    assert find_run(tmp_path, config(), trust=True)[0] == path


def test_a_refused_option_names_the_way(tmp_path: Path) -> None:
    path = make_run(tmp_path, 0, config())
    with pytest.raises(UserError, match=r"leave them out, or start a new run\. Changeable are"):
        continued(config(), {"glr": 0.5}, path)
    (path / "network-snapshot-000002.pkl").touch()
    with pytest.raises(
        UserError,
        match=rf"start a new run from its networks with --resume={path}/network-snapshot-000002\.pkl\. Chang",
    ):
        continued(config(), {"glr": 0.5}, path)


def test_without_a_state_it_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no training-state.*start a new run"):
        check_has_state(tmp_path)
    for kimg in (100, 200):
        (tmp_path / f"network-snapshot-{kimg:06d}.pkl").touch()
    with pytest.raises(
        UserError, match=r"start a new run from its networks with --resume=.*network-snapshot-000200\.pkl"
    ):
        check_has_state(tmp_path)


def test_auto_finds_the_newest_run_that_fits(tmp_path: Path) -> None:
    assert find_run(tmp_path / "none", config()) == (None, [])
    make_run(tmp_path, 1, config())
    wanted = make_run(tmp_path, 2, config(kimg=5))
    make_run(tmp_path, 3, config(), state=False)
    make_run(tmp_path, 4, config(glr=0.1))
    (tmp_path / "00005-something").mkdir()
    (tmp_path / "notes").mkdir()
    found, notes = find_run(tmp_path, config(kimg=9))
    assert found == wanted
    assert notes[0].startswith("00005-something is not continued: ")
    assert notes[1:] == [
        "00004-images-auto1-glr0.1 is not continued: optim.lr_G: 0.1 → 0.0025",
        "00003-images-auto1 is not continued: it has no training-state-*.pt",
    ]
    assert find_run(tmp_path, config(seed=1))[0] is None


def test_auto_goes_by_number_not_by_name(tmp_path: Path) -> None:
    make_run(tmp_path, 99999, config())
    wanted = make_run(tmp_path, 100000, config())
    assert find_run(tmp_path, config())[0] == wanted


def test_a_command_line_fits_the_run_that_it_was_continued_in_more_processes() -> None:
    given = {"batch": 8, "batch_gpu": 8, "mbstd_group": 4, "gpus": 2}
    run = config(**{**given, "gpus": 1})
    once = continued(run, given)
    assert (run.microbatch, once.microbatch) == (8, 4)
    assert continued(TrainConfig.from_dict(once.to_dict()), given) == once
    with pytest.raises(UserError, match="--batch-gpu: 4 → 2"):
        continued(once, {**given, "batch_gpu": 2})
