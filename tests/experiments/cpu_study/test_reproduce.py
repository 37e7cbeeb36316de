"""The CPU study: a balanced order, nothing lost or done twice whatever ends it, honest partial reports."""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
from click.testing import CliRunner

import train
from dnnlib.errors import UserError
from experiments.cpu_study import report as claim_report
from experiments.cpu_study import reproduce, run_queue
from experiments.cpu_study.protocols import CLAIM, PROTOCOLS, Protocol
from experiments.cpu_study.report import VERDICTS, sign_flip_p, verdict
from experiments.cpu_study.run_queue import ROOT, Job, work_off
from experiments.cpu_study.runs import find_run, hours_so_far, images_seen, measured, train_command

DOCS = ROOT / "docs"
CHANGES: dict[str, Any] = dict(kimg=4, round_kimg=2, batch=8, metrics=("fid5_full", "pr5k3_full"))
SMALL = dataclasses.replace(CLAIM, data={"emoji": CLAIM.data["emoji"]}, **CHANGES)


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in the repository's place, where train.py is the stand-in and the claim is a small one."""
    root = tmp_path / "repository"
    (root / "data").mkdir(parents=True)
    (root / "data" / "emoji32.zip").touch()
    shutil.copy(Path(__file__).with_name("stand_in_train.py"), root / "train.py")
    monkeypatch.setattr(run_queue, "ROOT", root)
    monkeypatch.setattr(reproduce, "ROOT", root)
    monkeypatch.setitem(PROTOCOLS, "claim", SMALL)
    return root


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(reproduce.main, [str(argument) for argument in arguments])


def fill(
    root: Path, protocol: Protocol, values: dict[str, dict[int, list[Any]]], *, pr: float = 0.25
) -> None:
    """Made-up runs: FIDs by arm and kimg, a value a seed (None: not reached)."""
    root.mkdir(exist_ok=True)
    reproduce.check_definition("claim", protocol, root, start=True)
    for run in protocol.runs:
        folder = root / run.name / "00000-run"
        folder.mkdir(parents=True)
        for kimg, seeds in values[run.arm].items():
            value = seeds[protocol.seeds.index(run.seed)]
            if value is None:
                continue
            (folder / f"training-state-{kimg * 1000:010d}.pt").touch()
            record(folder, kimg, {"fid5_full": value})
            record(folder, kimg, {"pr5k3_full_precision": pr, "pr5k3_full_recall": pr / 2})
        (folder / "training_options.json").write_text(json.dumps(resolved(protocol, run)))


def record(folder: Path, kimg: int, values: dict[str, float], **others: Any) -> None:
    metric = next(iter(values)).removesuffix("_precision")
    line = {
        "results": values,
        "snapshot_pkl": f"network-snapshot-{kimg:06d}.pkl",
        "detector": CLAIM.detector,
        "images_seen": kimg * 1000,
    }
    with open(folder / f"metric-{metric}.jsonl", "a") as stream:
        stream.write(json.dumps({**line, **others}) + "\n")


def resolved(protocol: Protocol, run: Any) -> dict[str, Any]:
    """The configuration that train.py makes of a run's command line."""
    arguments = [
        arg for arg in train_command(protocol, run, "out", protocol.kimg)[1:] if not arg.startswith("--data=")
    ]
    return dry_run(*arguments, f"--data={ROOT / 'data' / 'emoji32.zip'}")


@functools.cache
def dry_run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(train.main, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


# The protocol.


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_beginning_is_balanced(name: str) -> None:
    protocol = PROTOCOLS[name]
    count = len(protocol.arms)
    for end in range(1, len(protocol.rounds) + 1):
        kimg: dict[str, list[int]] = {arm: [0] * len(protocol.runs) for arm in protocol.arms}
        for run, to in protocol.rounds[:end]:
            kimg[run.arm][protocol.runs.index(run)] = to
        sums = [sum(values) for values in kimg.values()]
        assert max(sums) - min(sums) <= protocol.round_kimg  # never more than one round of one run apart
        if end % count == 0:
            assert len(set(sums)) == 1
    order = [to for _, to in protocol.rounds]
    assert order == sorted(order)
    assert (
        len(set(protocol.rounds))
        == len(order)
        == len(protocol.data) * count * len(protocol.seeds) * (len(protocol.snapshots) - 1)
    )
    first = collections.Counter(run.arm for run in protocol.runs[::count])
    assert abs(first["none"] - first[list(protocol.arms)[-1]]) <= len(protocol.runs) // count % 2


def test_the_arms_differ_in_ggdr_alone() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.kimg % protocol.round_kimg == 0
        assert protocol.options == CLAIM.options
        for arm in protocol.arms:
            none, other = (
                next(run for run in CLAIM.runs if run.arm == "none"),
                next(run for run in protocol.runs if run.arm == arm),
            )
            before, after = (resolved(protocol, dataclasses.replace(run, seed=0)) for run in (none, other))
            changed = {key for key in before if before[key] != after[key]} - {"description"}
            assert changed <= {"ggdr", "discriminator"}, name
            assert after["schedule"]["batch_size"] == protocol.batch
            kimg_a_round = after["schedule"]["kimg_per_tick"] * after["schedule"]["snapshot_ticks"]
            assert kimg_a_round == pytest.approx(protocol.round_kimg)
    assert resolved(CLAIM, CLAIM.runs[1])["ggdr"] == {
        "resolution": 8, "weight": 10, "start_kimg": 0, "kernel_size": 1, "activation": "linear",
    }  # fmt: skip


def test_the_documentation_is_in_step() -> None:
    text = " ".join((DOCS / "results" / "protocol.md").read_text(encoding="utf-8").split())
    for sentence in VERDICTS.values():
        assert sentence in text
    none = " ".join(train_command(CLAIM, CLAIM.runs[0], "claim-runs", CLAIM.kimg))
    for option in none.split()[1:]:
        assert option in text
    for name in PROTOCOLS:
        assert f"`{name}`" in text
    commands = invoke("--outdir=claim-runs", "--commands").output.splitlines()
    assert commands[0] in text
    assert len(commands) == 1 + 12


# Running.


def driver(root: Path, out: Path, *options: str) -> "subprocess.Popen[str]":
    """The tool in a process and session of its own, in a workshop."""
    program = (
        "import dataclasses, sys; from pathlib import Path; from experiments.cpu_study import reproduce "
        "as r, run_queue as q; p = r.PROTOCOLS; "
        "p['claim'] = dataclasses.replace(p['claim'], data={'emoji': p['claim'].data['emoji']}, "
        "**eval(sys.argv[2])); "
        "r.ROOT = q.ROOT = Path(sys.argv[1]); r.main(sys.argv[3:])"
    )
    return start(program, str(root), repr(CHANGES), f"--outdir={out}", *options)


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while (
        time.monotonic() < deadline and (len(path.read_text().splitlines()) if path.exists() else 0) < count
    ):
        time.sleep(0.005)


def test_nothing_is_lost_or_done_twice(workshop: Path, tmp_path: Path) -> None:
    out, ledger = tmp_path / "out", workshop / "ledger.txt"
    for after, number, status in ((2, signal.SIGINT, 130), (6, signal.SIGKILL, -9), (10, signal.SIGTERM, 0)):
        process = driver(workshop, out, "--jobs=2")
        wait_for_lines(ledger, after)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        output = process.communicate(timeout=30)[0]
        assert process.returncode == status, output
        if number != signal.SIGKILL:
            assert "the same command goes on" in output
    assert len(ledger.read_text().splitlines()) < 24
    result = invoke(f"--outdir={out}", "--jobs=2")
    assert result.exit_code == 0, result.output
    expected = [f"{run.arm}-seed{run.seed} {kimg}" for run in SMALL.runs for kimg in (1, 2, 3, 4)]
    assert sorted(ledger.read_text().splitlines()) == sorted(expected)
    for run in SMALL.runs:
        assert list(measured(out / run.name / "00000-run", SMALL)["fid5_full"]) == [0, 2, 4]
    assert "24 of 24 kimg" in result.output
    starts = len((out / "history.jsonl").read_text().splitlines())
    assert starts >= 12
    again = invoke(f"--outdir={out}")
    assert again.exit_code == 0
    assert len((out / "history.jsonl").read_text().splitlines()) == starts


def test_the_first_round_of_all_comes_before_the_second_of_any(workshop: Path, tmp_path: Path) -> None:
    assert invoke(f"--outdir={tmp_path / 'out'}").exit_code == 0
    starts = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [(start["run"], start["to_kimg"]) for start in starts] == [
        (run.name, kimg) for run, kimg in SMALL.rounds
    ]
    assert [start["from_images"] for start in starts] == [0] * 6 + [2000] * 6


def test_one_data_set_at_a_time(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = dataclasses.replace(SMALL, data=dict.fromkeys(("emoji", "other"), CLAIM.data["emoji"]), seeds=(1,))
    monkeypatch.setitem(PROTOCOLS, "claim", two)
    out = tmp_path / "out"
    assert invoke(f"--outdir={out}", "--data=other").exit_code == 0
    assert [images_seen(find_run(out, run)) for run in two.runs] == [
        4000 * (run.data == "other") for run in two.runs
    ]
    for run in two.runs:  # which the stand-in does not write
        folder = find_run(out, run)
        if folder is not None:
            (folder / "training_options.json").write_text(json.dumps(resolved(two, run)))
    text = report(out)
    assert "- Emoji, 1,854 images, RGB: fid5_full at 4 kimg is" in text.split("## Outcome")[1]
    assert "The data sets have no last snapshot in common yet, so nothing is tested." in text
    assert "p =" not in text
    assert invoke(f"--outdir={out}").exit_code == 0
    assert [images_seen(find_run(out, run)) for run in two.runs] == [4000] * 4


def test_it_stops_by_itself(workshop: Path, tmp_path: Path) -> None:
    result = invoke(f"--outdir={tmp_path / 'out'}", f"--hours={0.6 / 3600}")
    assert result.exit_code == 0
    assert "Stopped; the same command goes on" in result.output
    assert 0 < len((workshop / "ledger.txt").read_text().splitlines()) < 24


def test_a_run_that_fails_does_not_keep_the_others(workshop: Path, tmp_path: Path) -> None:
    (workshop / "broken").write_text("ggdr-seed2")
    result = invoke(f"--outdir={tmp_path / 'out'}", "--jobs=4")
    assert result.exit_code == 1
    assert "Error: runs failed (emoji/ggdr-seed2)" in result.output
    assert result.output.count("emoji/ggdr-seed2: failed with status 3") == 1
    assert images_seen(tmp_path / "out" / "emoji" / "none-seed3" / "00000-run") == 4000
    (workshop / "broken").unlink()
    assert invoke(f"--outdir={tmp_path / 'out'}").exit_code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="nobody else tells a process that its parent is gone")
def test_trainings_end_with_a_tool_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from experiments.cpu_study.run_queue import Job, work_off; "
        "work_off([Job('a', lambda: ['-c', 'import os, time; print(os.getpid(), flush=True); "
        "time.sleep(60)'], Path(sys.argv[1]), '')])"
    )
    process = start(program, str(tmp_path / "log"))
    wait_for_lines(tmp_path / "log", 1)
    child = psutil.Process(int((tmp_path / "log").read_text()))
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie, where nobody takes care of orphans
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_second_ctrl_c_ends_what_does_not_stop(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = (
        "import signal, time, pathlib; signal.signal(15, signal.SIG_IGN); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    job = Job("a", lambda: ["-c", stubborn], tmp_path / "log", "")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("Stopping"):
            os.kill(os.getpid(), signal.SIGINT)

    def interrupt(number: int, frame: Any) -> None:
        if ready.exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            work_off([job], say=say)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - begun < 30
    assert said[-1].startswith("Stopping a")


# Reporting.


def report(tmp_path: Path, protocol: Protocol = SMALL) -> str:
    result = invoke(f"--outdir={tmp_path}", f"--report={tmp_path / 'report'}")
    assert result.exit_code == 0, result.output
    return (tmp_path / "report" / "claim.md").read_text(encoding="utf-8")


FIDS: dict[str, dict[int, list[Any]]] = {
    "none": {0: [200, 210, 220], 2: [150, 160, 170], 4: [100, 110, 120]},
    "ggdr": {0: [200, 210, 220], 2: [155, 150, 160], 4: [90, 104, 100]},
}


def test_means_spread_pairs_and_verdict(workshop: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fill(tmp_path, SMALL, FIDS)
    text = report(tmp_path)
    assert "Complete: 1 data sets × 2 arms × 3 seeds to 4 kimg." in text
    assert "| 4 | 110 ± 10 | 98 ± 7.2 | -12 ± 7.2 (3 of 3) |" in text
    assert "| 2 | 160 ± 10 | 155 ± 5 | -5 ± 8.7 (2 of 3) |" in text
    assert "| 4 | 0.125 ± 0 | 0.125 ± 0 | 0 ± 0 (0 of 3) |" in text  # recall
    assert "| 2 | ggdr | 104 | 104 (4 kimg) | 104 |" in text
    assert "lower in 3 of 3 pairs" in text
    assert "p = 0.25, two-sided, of at least 0.25 that 3 pairs can give" in text
    assert f"**{VERDICTS['perhaps lower']}**" in text
    assert "- `ggdr`: " in text
    assert "ggdr.weight: None → 10" in text
    assert "--reg_type=ggdr --ggdr_res=8 --seed=3" in text
    assert "commit" in text
    for value in ("fid5_full", "pr5k3_full_recall"):
        with PIL.Image.open(tmp_path / "report" / f"claim-{value}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_only_what_all_have_reached_is_reported(workshop: Path, tmp_path: Path) -> None:
    fill(tmp_path, SMALL, {**FIDS, "none": {**FIDS["none"], 4: [100, None, 120]}})
    odd = tmp_path / "emoji" / "none-seed2" / "00000-run"
    record(odd, 4, {"fid5_full": 1.0})  # FID, but not yet precision and recall
    record(odd, 3, {"fid5_full": 2.0})  # a snapshot that is not the protocol's
    record(odd, 2, {"fid5_full": 3.0}, detector="inception")
    line = {
        "results": {"fid5_full": 4.0},
        "snapshot_pkl": "network-snapshot-000002.pkl",
        "detector": CLAIM.detector,
    }
    with open(odd / "metric-fid5_full.jsonl", "a") as stream:
        stream.write(json.dumps(line) + '\n{"results": {"fid')  # calc_metrics.py's, and one that was cut off
    text = report(tmp_path)
    assert "**Partial**" in text
    assert "| emoji/none-seed2 | 2 | 2 of 3 |" in text
    assert "| 2 | 160 ± 10 | 155 ± 5 | -5 ± 8.7 (2 of 3) |" in text
    assert "\n| 4 |" not in text
    assert "The protocol is not complete: there is no verdict" in text
    assert not any(sentence in text for sentence in VERDICTS.values())


def test_a_report_of_nothing_says_so(workshop: Path, tmp_path: Path) -> None:
    reproduce.check_definition("claim", SMALL, tmp_path, start=True)
    text = report(tmp_path)
    assert "No snapshot has been measured in all runs." in text
    assert "There is nothing to draw yet." in text


def test_without_matplotlib_the_tables_are_written(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(count: int) -> Any:
        raise UserError("drawing plots needs the package matplotlib.figure: pip install -e '.[plots]'")

    monkeypatch.setattr(claim_report, "panels", missing)
    fill(tmp_path, SMALL, FIDS)
    text = report(tmp_path)
    assert "There is no plot: drawing plots needs the package" in text
    assert "110 ± 10" in text


def test_a_run_that_came_to_nothing_gives_no_verdict(workshop: Path, tmp_path: Path) -> None:
    fill(tmp_path, SMALL, {**FIDS, "ggdr": {**FIDS["ggdr"], 4: [90, math.nan, 100]}})
    assert f"**{VERDICTS['none']}**" in report(tmp_path)


def test_exact_p() -> None:
    assert sign_flip_p([-1, -2, -3]) == 0.25
    assert sign_flip_p([1, 2, 3, 4, 5, 6]) == 2 / 64
    assert sign_flip_p([-1, 2, 3]) == 4 / 8  # |4| or more: ±(−1+2+3), ±(1+2+3)
    assert sign_flip_p([0, 0]) == sign_flip_p([-3]) == 1
    assert math.isnan(sign_flip_p([1, math.nan]))


@pytest.mark.parametrize(
    ("means", "p", "expected"),
    [
        ([(2, 1), (2, 1)], 0.05, "lower"),
        ([(2, 1), (2, 1)], 0.06, "perhaps lower"),
        ([(2, 1), (1, 2)], 0.01, "mixed"),
        ([(1, 2), (1, 2)], 0.06, "not lower"),
        ([(1, 2), (1, 1)], 0.01, "not lower"),
        ([(1, 2), (1, 2)], 0.04, "higher"),
        ([(1, math.inf), (1, 2)], 0.04, "none"),
    ],
)
def test_verdicts(means: list[tuple[float, float]], p: float, expected: str) -> None:
    assert verdict(means, p) == expected


# Bad input.


def test_one_clear_line(
    workshop: Path, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert "give one of them" in complaint(reproduce.main, [f"--outdir={out}", "--status", f"--report={out}"])
    assert "--data says which runs to go on with" in complaint(
        reproduce.main, [f"--outdir={out}", "--data=emoji", "--status"]
    )
    assert "protocol claim has no data set x; choose one of emoji" in complaint(
        reproduce.main, [f"--outdir={out}", "--data=x"]
    )
    assert "--hours=0 is no time" in complaint(reproduce.main, [f"--outdir={out}", "--hours=0"])
    assert "'x' is not a finite number" in complaint(reproduce.main, [f"--outdir={out}", "--hours=x"])
    assert "has not been begun" in complaint(reproduce.main, [f"--outdir={out}", "--status"])
    assert "has not been begun" in complaint(
        reproduce.main, [f"--outdir={out}", f"--report={out / 'report'}"]
    )
    assert not out.exists()
    fill(out, SMALL, FIDS)
    assert "cannot write to the folder --report" in complaint(
        reproduce.main, [f"--outdir={out}", f"--report={out / 'protocol-claim.json'}"]
    )
    second = out / "emoji" / "none-seed1" / "00001-run"
    second.mkdir()
    (second / "training-state-0000002000.pt").touch()
    assert "has several runs (00000-run, 00001-run)" in complaint(
        reproduce.main, [f"--outdir={out}", "--status"]
    )
    monkeypatch.setitem(PROTOCOLS, "claim", dataclasses.replace(SMALL, kimg=6))
    assert "another definition (kimg: 4 → 6)" in complaint(reproduce.main, [f"--outdir={out}"])
    assert "another protocol, protocol-claim, with other batch, round_kimg, metrics" in complaint(
        reproduce.main, ["trial", f"--outdir={out}"]
    )
    (out / "protocol-claim.json").write_text("{")
    assert "cannot be read" in complaint(reproduce.main, [f"--outdir={out}"])


def test_data_that_cannot_be_made(
    workshop: Path, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = dataclasses.replace(CLAIM.data["fashion"], source="/nowhere/images.gz")
    monkeypatch.setitem(PROTOCOLS, "claim", dataclasses.replace(SMALL, data={"fashion": missing}))
    line = complaint(reproduce.main, [f"--outdir={tmp_path / 'out'}"])
    assert "no /nowhere/images.gz (Fashion-MNIST, " in line
    assert line.endswith(": apt-get install dataset-fashion-mnist")


def test_one_call_at_a_time(workshop: Path, tmp_path: Path, complaint: Any) -> None:
    out = tmp_path / "out"
    process = driver(workshop, out)
    wait_for_lines(workshop / "ledger.txt", 1)
    try:
        assert f"another process is writing in {out}" in complaint(reproduce.main, [f"--outdir={out}"])
        assert invoke(f"--outdir={out}", "--status").exit_code == 0
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
def test_real_trainings(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    program = (
        "import dataclasses; from experiments.cpu_study import reproduce as r; p = r.PROTOCOLS; "
        "p['trial'] = dataclasses.replace(p['trial'], seeds=(0,), metrics=('fid16_full',)); r.main()"
    )
    command = [sys.executable, "-c", program, "trial", f"--outdir={tmp_path / 'out'}"]
    for extra in ([f"--hours={20 / 3600}"], [], [f"--report={tmp_path}"]):
        done = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "trial.md").read_text(encoding="utf-8")
    assert "Complete: 1 data sets × 2 arms × 1 seeds to 2 kimg." in text
    options = next(line for line in text.splitlines() if line.startswith("- `ggdr`: "))
    assert all(
        part.strip().startswith(("ggdr", "discriminator."))
        for part in options.removeprefix("- `ggdr`: ").split(", ")
    )


def test_the_program_of_a_report_is_that_of_its_own_runs(tmp_path: Path) -> None:
    def start(run: str, commit: str, kimg: int) -> str:
        return json.dumps(
            {"run": run, "commit": commit * 12, "changed": False, "torch": "2", "to_kimg": kimg}
        )

    (tmp_path / "protocol-claim.json").write_text(
        json.dumps({"time": 0, "commit": "a" * 12, "changed": False, "torch": "2"})
    )
    first, second = CLAIM.runs[:2]
    runs = (
        (first.name, "a", 20),
        (second.name, "b", 180),
        ("emoji/weight1-seed1", "c", 20),
        (first.name, "d", 200),
    )
    (tmp_path / "history.jsonl").write_text("\n".join(start(*run) for run in runs))
    found = claim_report.provenance("claim", CLAIM, tmp_path)
    assert found == f"Begun on 1970-01-01; commits `{'a' * 12}`, `{'b' * 12}`; PyTorch 2; 2 starts."


def test_the_hours_of_a_report_are_those_of_its_own_ticks(tmp_path: Path) -> None:
    ticks = [
        {"Progress/kimg": {"mean": kimg}, "Timing/total_hours": {"mean": kimg / 100}}
        for kimg in (0, 100, 180, 240)
    ]
    (tmp_path / "stats.jsonl").write_text("\n".join(map(json.dumps, ticks)) + '\n{"Progr')
    assert hours_so_far(tmp_path) == 2.4
    assert hours_so_far(tmp_path, 180) == 1.8
    assert hours_so_far(tmp_path / "none") == hours_so_far(None) == 0
