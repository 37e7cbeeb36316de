"""Run state files: whole, truncated, altered, and on a disk that is full."""

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from training.config.run_directory import images_in_state, state_path, state_paths
from training.run import state_file
from training.run.state_file import DamagedState, newest_state, prune_states, read_state, write_state

CONTENT: dict[str, Any] = {
    "weights": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(True)},
    "options": {"resume": None, "names": ["x"], "t": (0.5, 2)},
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Any:
    """With states after 100, 200 and 300 images."""
    for images_seen in (100, 200, 300):
        write_state(state_path(tmp_path, images_seen), {**CONTENT, "at": images_seen})
    return tmp_path


def test_there_and_back(tmp_path: Path) -> None:
    path = state_path(tmp_path, 12)
    assert path.name == "training-state-0000000012.pt"
    write_state(path, CONTENT)
    found = read_state(path)
    assert torch.equal(found["weights"]["a"], CONTENT["weights"]["a"])
    assert found["weights"]["b"].dtype == torch.bool
    assert found["options"] == CONTENT["options"]


def test_torch_opens_it_without_running_anything(tmp_path: Path) -> None:
    write_state(tmp_path / "a.pt", CONTENT)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["options"] == CONTENT["options"]


def damage(path: Any, kind: Any) -> None:
    data = bytearray(path.read_bytes())
    if kind == "empty":
        data = bytearray()
    elif kind == "short":
        data = data[:20]
    elif kind == "half":
        data = data[: len(data) // 2]
    elif kind == "last byte":
        data = data[:-1]
    elif kind == "more":
        data += b"x"
    else:
        place = {
            "first bit": 0,
            "tensor bit": data.index(CONTENT["weights"]["a"].numpy().tobytes()) + 5,
            "sum bit": len(data) - 3,
        }[kind]
        data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind", ["empty", "short", "half", "last byte", "more", "first bit", "tensor bit", "sum bit"]
)
def test_damage_is_recognised_and_the_state_before_is_taken(
    run_dir: Any, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    newest = state_path(run_dir, 300)
    damage(newest, kind)
    with pytest.raises(DamagedState):
        read_state(newest)
    path, content = newest_state(run_dir)
    assert (path, content["at"]) == (state_path(run_dir, 200), 200)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"Warning: {newest} is damaged: it")


def test_a_whole_file_with_content_that_is_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", lambda content, writer: writer.write(b"not an archive"))
    write_state(tmp_path / "a.pt", CONTENT)
    with pytest.raises(DamagedState, match="cannot be unpacked"):
        read_state(tmp_path / "a.pt")


def test_one_that_cannot_be_read_is_passed_over(run_dir: Any, capsys: pytest.CaptureFixture[str]) -> None:
    newest = state_path(run_dir, 300)
    newest.unlink()
    newest.symlink_to(newest.name)  # whoever runs this
    assert newest_state(run_dir)[1]["at"] == 200
    assert "cannot be read (Too many levels of symbolic links)" in capsys.readouterr().err


def test_all_damaged(run_dir: Any) -> None:
    for path in state_paths(run_dir):
        damage(path, "half")
    with pytest.raises(UserError, match=r"none of the 3 checkpoints .* can be used.*--resume"):
        newest_state(run_dir)


def test_other_files_of_torch_and_other_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "VERSION", 2)
    write_state(tmp_path / "new.pt", CONTENT)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"new\.pt has format version 2, this program reads version 1"):
        read_state(tmp_path / "new.pt")
    monkeypatch.setattr(state_file, "FORMAT", "something else")
    write_state(tmp_path / "other.pt", CONTENT)
    monkeypatch.undo()
    with pytest.raises(UserError, match="not a checkpoint"):
        read_state(tmp_path / "other.pt")


def test_order_is_by_images_and_other_names_do_not_count(run_dir: Any) -> None:
    write_state(state_path(run_dir, 10_000_000_000), CONTENT)  # more digits than the name provides for
    for name in ("training-state-copy.pt", "training-state-0000000400.pt.bak", "network-snapshot-000500.pkl"):
        (run_dir / name).touch()
    assert [images_in_state(path) for path in state_paths(run_dir)] == [10_000_000_000, 300, 200, 100]


def test_two_are_kept(run_dir: Any) -> None:
    prune_states(run_dir, state_path(run_dir, 300))
    assert state_paths(run_dir) == [state_path(run_dir, 300), state_path(run_dir, 200)]


def test_later_ones_go_when_the_run_went_on_from_before(run_dir: Any) -> None:
    """Or a damaged one would be tried first for ever."""
    write_state(state_path(run_dir, 250), CONTENT)
    prune_states(run_dir, state_path(run_dir, 250))
    assert state_paths(run_dir) == [state_path(run_dir, 250), state_path(run_dir, 200)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def check_full(folder: Any) -> None:
    write_state(folder / "a.pt", {"x": torch.zeros(100_000)})
    for size in (200_000, 10_000_000):  # at the end of writing, and in the middle
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which one depends on the disk
            write_state(folder / "a.pt", {"x": torch.ones(size)})
        assert caught.value.strerror
    assert os.listdir(folder) == ["a.pt"]
    assert torch.equal(read_state(folder / "a.pt")["x"], torch.zeros(100_000))


def test_a_full_disk_leaves_the_state_before(small_disk: Any) -> None:
    check_full(small_disk)


def test_a_limit_on_file_sizes_leaves_the_state_before(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, before[1]))
    try:
        check_full(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_named_like_a_state_is_none(run_dir: Any) -> None:
    for images_seen in (150, 400):
        state_path(run_dir, images_seen).mkdir()
    assert [images_in_state(path) for path in state_paths(run_dir)] == [300, 200, 100]
    prune_states(run_dir, state_path(run_dir, 300))
    assert [images_in_state(path) for path in state_paths(run_dir)] == [300, 200]


def test_ctrl_c_while_torch_writes_stays_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's writer turns an interruption into an error of its own."""

    def interrupted(self: Any, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.run.state_file._HashingWriter.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_state(tmp_path / "training-state-0000000008.pt", {"a": torch.zeros(100_000)})
    assert list(tmp_path.iterdir()) == []
