"""Starting processes with torch's launcher: exit statuses, who speaks, restarts, signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import distributed as dist
from torch.distributed.launcher import api

from dnnlib import torchrun
from dnnlib.errors import UserError
from tests import ranks
from torch_utils import elastic, rendezvous

PROGRAM = ranks.ROOT / "tests" / "ranks" / "launched.py"


def program(restarts: Any, *modes: Any, scratch: Any = None) -> Any:
    environment = {
        **os.environ,
        **({} if scratch is None else {"TMPDIR": str(scratch)}),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ranks.ROOT),
    }
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(restarts), *modes],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def outputs() -> Any:
    """What each mode printed, and its exit status, with one restart allowed."""
    output, _ = program(1, "killed", "broken", "wrong input").communicate(timeout=300)
    parts = re.split(r"^mode (.+)\n", output, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_killed_process_is_followed_by_a_restart(outputs: Any) -> None:
    output = outputs["killed"]
    first, second = output.split("The processes were started again after a failure (number 1)\n")
    assert first.startswith("starts, remembers None\nstep 0\nstep 1\nstep 2\n")
    assert "Error: rank 0 gave up after waiting for " in first
    assert first.count("Error") == 1
    assert re.fullmatch(r"starts, remembers 3\n(step \d\n){8}ends\nstatus 0 after [\d.]+ s\n", second), second


def test_a_fault_is_shown_once_in_each_attempt(outputs: Any) -> None:
    output = outputs["broken"]
    assert output.count("Traceback") == 1
    assert "Rank 1 of 2 failed:\nTraceback" in output
    assert "ZeroDivisionError: a fault of the program" in output
    assert "status 0" in output, "the second attempt goes well"


def test_wrong_input_is_one_line_and_no_reason_to_try_again(outputs: Any) -> None:
    errors = [line for line in outputs["wrong input"].splitlines() if not line.startswith(("starts", "step"))]
    assert errors[0] == "Error: this input is wrong"
    assert re.fullmatch(r"status 1 after [\d.]+ s", errors[1])
    assert len(errors) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGUSR1, 0)],
    ids=["ctrl-c", "term", "warning"],
)
def test_a_signal_to_the_launcher_lets_all_end_in_good_order(number: Any, status: Any) -> None:
    process = program(0, "long")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 5"):
            process.send_signal(number)
            break
    start = time.monotonic()
    rest = process.communicate(timeout=60)[0]
    assert f"stops for {number.name}\nstatus {status} " in rest
    assert process.returncode == status
    assert time.monotonic() - start < 15
    assert "Error" not in rest
    assert "Traceback" not in rest


@pytest.mark.slow
def test_when_the_launcher_is_killed_its_processes_end_too(tmp_path: Path) -> None:
    process = program(0, "long", scratch=tmp_path)  # it cannot clean up
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 5"):
            break
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.kill()
    assert "stops for SIGTERM\n" in process.stdout.read(), "in good order, and before the 200 steps are over"
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    process.communicate()


@pytest.mark.parametrize(
    ("statuses", "status", "message"),
    [
        ({1: -9}, 1, "Error: rank 1 was killed by SIGKILL (signal 9)\n"),
        ({0: 1, 1: -11}, 1, "Error: rank 1 was killed by SIGSEGV (signal 11)\n"),
        ({2: -64}, 1, "Error: rank 2 was killed by SIGRTMAX (signal 64)\n"),
        ({0: -15, 1: 1}, 1, ""),
        ({0: 1}, 1, ""),
        ({0: 130, 1: 130}, 130, ""),
    ],
)
def test_what_the_launcher_says_of_a_failure(
    statuses: Any, status: Any, message: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert elastic._failure_status(statuses) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("number", "in_order", "status"),
    [("SIGINT", True, 130), ("SIGINT", False, 130), ("SIGTERM", True, 0), ("SIGTERM", False, 143)],
)
def test_exit_status_after_a_signal(number: Any, in_order: Any, status: Any) -> None:
    assert elastic._signal_status(signal.Signals[number], in_order=in_order) == status


def test_without_a_launcher_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    elastic.remember("x", "y")
    assert elastic.recall("x") is None


def test_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (torchrun.is_worker(), torchrun.rank(), torchrun.world_size(), torchrun.local_world_size()) == (
        False,
        0,
        1,
        None,
    )
    assert torchrun.restarts() == 0
    for name, value in dict(
        RANK="5", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", TORCHELASTIC_RESTART_COUNT="2"
    ).items():
        monkeypatch.setenv(name, value)
    assert (torchrun.is_worker(), torchrun.rank(), torchrun.world_size(), torchrun.local_world_size()) == (
        True,
        5,
        8,
        4,
    )
    assert torchrun.restarts() == 2


@pytest.mark.parametrize(("number", "outcome"), [(0, None), (1, None), (2, UserError), (3, SystemExit)])
def test_each_process_takes_its_gpu_and_one_says_if_there_are_too_few(
    monkeypatch: pytest.MonkeyPatch, number: Any, outcome: Any
) -> None:
    taken: list[int] = []
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in dict(RANK=str(number), WORLD_SIZE="4", LOCAL_WORLD_SIZE="4").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(elastic.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(elastic.torch.cuda, "set_device", taken.append)
    if outcome is None:
        elastic._take_gpu(number)
        assert taken == [number]
    else:
        with pytest.raises(outcome) as caught:
            elastic._take_gpu(number)
        assert taken == []
        assert outcome is SystemExit or str(caught.value).startswith(
            "4 processes were started on this machine for its 2 GPUs; start one"
        )


def test_each_process_gets_its_share_of_the_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that it is put back at the end
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)

    def launched(config: Any, entry: Any) -> Any:
        return lambda *command: seen.append((os.environ["OMP_NUM_THREADS"], config.shutdown_timeout))

    monkeypatch.setattr(api, "elastic_launch", launched)
    for processes in (4, 2):  # the second finds what the first has set
        assert elastic.launch(["x.py"], processes, patience=7) == 0
    assert seen == [("4", 7), ("4", 7)]


def listening(process: Any) -> Any:
    return [
        connection.laddr.ip
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_the_store_of_one_machine_listens_on_loopback_alone() -> None:
    me = psutil.Process()
    before = listening(me)
    handler = rendezvous.LoopbackRendezvous("run")
    added = listening(me)
    for address in before:
        added.remove(address)
    assert added == ["127.0.0.1"]
    rounds = [handler.next_rendezvous() for _ in range(2)]
    rounds[0].store.set("key", "of the first round")
    assert not rounds[1].store.check(["key"])
    assert {(info.rank, info.world_size) for info in rounds} == {(0, 1)}
    client = dist.TCPStore("127.0.0.1", rounds[0].bootstrap_store_info.master_port, is_master=False)
    client.set("a", "b")
    assert client.get("a") == b"b"
    assert handler.shutdown()
    assert handler.is_closed()


def test_the_launcher_takes_that_store_and_keeps_the_rest_on_loopback_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    interfaces = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

    def launched(config: Any, entry: Any) -> Any:
        return lambda *command: seen.append((config.rdzv_backend, *(os.environ[name] for name in interfaces)))

    monkeypatch.setattr(api, "elastic_launch", launched)
    monkeypatch.setattr(rendezvous.socket, "if_nameindex", lambda: [(1, "eth7"), (2, "lo")])
    elastic.launch(["x.py"], 2)
    assert seen == [("loopback", "lo", "lo")]
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "NCCL_SOCKET_IFNAME" not in os.environ


@pytest.mark.slow
def test_nothing_of_several_processes_listens_on_other_addresses() -> None:
    process = program(0, "long")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 5"):
            break
    parent = psutil.Process(process.pid)
    addresses = {address for one in [parent, *parent.children()] for address in listening(one)}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert addresses == {"127.0.0.1"}
