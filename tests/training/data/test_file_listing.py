"""What a folder or zip is taken to hold, what is left out of it, and outputs that would lie in it."""

import os
import socket
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import PIL.Image
import pytest

from dnnlib.errors import UserError
from training.data import file_tree
from training.data.dataset import ImageFolderDataset
from training.data.file_tree import FileTree, check_apart
from training.data.reals import open_images


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def write_zip(path: Path, names: Iterable[str]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile warns of repeated names
        for name in names:
            archive.writestr(name, b"content")
    return path


def pack(folder: Path, path: Path) -> Path:
    return write_zip(
        path, sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    )


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_left_out_is_counted(tmp_path: Path, kind: str) -> None:
    folder = make_files(
        tmp_path / "d",
        *(
            "a.png",
            "b.JPG",
            "dataset.json",
            "c.HEIC",
            "d.heic",
            "e.heif",
            "more.zip",
            "noending",
            "sub/notes.txt",
            "sub/dataset.json",
        ),
        *(".hidden.png", ".cache/x.png", ".cache/y.png", "sub/.thumb/z.png"),
        *("__MACOSX/._a.png", "._a.png", ".DS_Store", "Thumbs.db", "sub/desktop.ini"),
    )
    tree = FileTree(folder if kind == "folder" else pack(folder, tmp_path / "d.zip"))
    assert tree.image_names == ["a.png", "b.JPG"]
    (note,) = tree.note()
    for part in ("2 .heic", "1 .heif", "1 .zip", "1 without an ending", "1 .txt", "1 .json", "3 hidden"):
        assert f" {part}" in note, part
    assert "Unpack archives" in note
    assert "Convert HEIC files" in note
    assert "rename those without one" in note


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path) -> None:
    assert FileTree(make_files(tmp_path / "d", "a.png", "dataset.json", ".DS_Store", "._a.png")).note() == []
    assert FileTree(make_files(tmp_path / "e", "f/a.png", "f/dataset.json")).note() == []


def test_many_endings_are_summed_up(tmp_path: Path) -> None:
    (note,) = FileTree(make_files(tmp_path / "d", "a.png", *(f"x.{i:03d}" for i in range(30)))).note()
    assert "22 of other kinds" in note
    assert len(note) < 300


def test_an_ending_cannot_forge_a_line(tmp_path: Path) -> None:
    (note,) = FileTree(make_files(tmp_path / "d", "a.png", "x.a\n\x1b[31mred")).note()
    assert note.isprintable()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_no_images_says_what_is_there(tmp_path: Path, kind: str) -> None:
    folder = make_files(tmp_path / "d", "a.heic", "b.heic", "c")
    with pytest.raises(
        UserError, match=r"holds no images that are read \(not read: 2 \.heic, 1 without an ending\)"
    ):
        ImageFolderDataset(folder if kind == "folder" else pack(folder, tmp_path / "d.zip"))


def test_linked_folders_are_followed_each_once(tmp_path: Path) -> None:
    make_files(tmp_path / "elsewhere", "x.png", "deep/y.png")
    folder = make_files(tmp_path / "d", "a/0.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "c").symlink_to(tmp_path / "elsewhere" / "deep")
    (folder / "a" / "round").symlink_to(folder)
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "a", target_is_directory=True)
    (folder / "one.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    tree = FileTree(folder)
    assert tree.names == ["a/0.png", "b/deep/y.png", "b/x.png", "one.png"]
    assert tree.listing.again == ["a/round", "b/back", "c"]
    assert "3 linked to folders that are read already ('a/round' first)" in tree.note()[0]


def test_a_web_of_links_ends(tmp_path: Path) -> None:
    """Each of 12 folders links to all: followed by name alone, that is 12! paths."""
    for i in range(12):
        make_files(tmp_path / "d", f"{i}/x.png")
        for j in range(12):
            (tmp_path / "d" / str(i) / f"to{j}").symlink_to(tmp_path / "d" / str(j))
    assert len(FileTree(tmp_path / "d").names) == 12


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "d", "a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "dataset.json").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "s.png"))
        tree = FileTree(folder)
    assert tree.names == ["a.png"]
    assert "4 special (pipes, sockets or devices), 2 broken links" in tree.note()[0]
    with pytest.raises(UserError, match="no ordinary file"):
        tree.read("pipe.png")  # it may have come to be since
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        FileTree(folder / "pipe.png")


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.png"),
        ("b/a.png", "./b/a.png"),
        ("b/a.png", "b\\a.png"),
        ("/a.png", "a.png"),
        ("b//a.png", "b/./a.png"),
    ],
)
def test_a_zip_has_each_name_once(tmp_path: Path, names: tuple[str, str]) -> None:
    path = write_zip(tmp_path / "x.zip", ["first.png", *names])
    spelled = "" if names[0] == names[1] else " \\(as '"
    with pytest.raises(UserError, match=rf"'(b/)?a\.png' is in '.*x\.zip' twice{spelled}"):
        FileTree(path)


def test_repeated_names_that_are_no_data_do_no_harm(tmp_path: Path) -> None:
    assert FileTree(write_zip(tmp_path / "x.zip", ["a.png", "b/", "b/", "README", "README"])).image_names == [
        "a.png"
    ]
    with pytest.raises(UserError, match=r"'dataset\.json' is in .* twice"):
        FileTree(write_zip(tmp_path / "y.zip", ["a.png", "dataset.json", "dataset.json"]))
    assert FileTree(f"{write_zip(tmp_path / 'z.zip', ['in/a.png', 'b.png', 'b.png'])}/in").names == [
        "a.png"
    ], "beside what is read"


def test_names_that_lead_out_of_a_zip_are_left_out(tmp_path: Path) -> None:
    tree = FileTree(write_zip(tmp_path / "x.zip", ["a.png", "../../b.png", "c/../d.png"]))
    assert tree.names == ["a.png"]
    assert "2 with '..' in the name" in tree.note()[0]


def test_a_name_in_a_zip_that_is_no_text(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", ["é.png"])
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(UserError, match=r"x\.zip' is no zip that can be read: 'utf-8' codec"):
        FileTree(path)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_file_that_fills_the_memory_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_files(tmp_path / "d", "a.png")
    monkeypatch.setattr(file_tree, "MAX_FILE", 6)
    with pytest.raises(UserError, match="it has 7 bytes, more than the 6 that are read"):
        FileTree(folder if kind == "folder" else pack(folder, tmp_path / "d.zip")).read("a.png")


@pytest.mark.parametrize(
    "output",
    [
        "d",
        "d/out",
        "d/a/new/out",
        "link/out",
        "d/../d/out",
        "elsewhere/out",
        "d/away",
        "d/a",
        "hop/../out",
        "fresh",
    ],
)
def test_outputs_in_what_is_read(tmp_path: Path, output: str) -> None:
    make_files(tmp_path / "elsewhere", "x.png")
    folder = make_files(tmp_path / "d", "a/0.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "fresh").symlink_to(folder / "new")  # which is not there yet
    (tmp_path / "hop").symlink_to(folder / "a")  # hop/.. is the data's folder
    (folder / "away").symlink_to(tmp_path / "other")  # the link itself would be replaced
    with pytest.raises(UserError, match=r"are the same" if output == "d" else r"--outdir '.*' lies in"):
        FileTree(folder).check_apart(tmp_path / output, "--outdir")


def test_outputs_beside_what_is_read(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "d", "a/0.png")
    for output in ("out", "d2", "d/../out", "new/d/out", "."):
        FileTree(folder).check_apart(tmp_path / output, "--outdir")
    archive = write_zip(tmp_path / "x.zip", ["in/a.png"])
    FileTree(f"{archive}/in").check_apart(tmp_path / "out.zip", "--dest")
    with pytest.raises(UserError, match="are the same"):
        FileTree(f"{archive}/in").check_apart(archive, "--dest")
    check_apart(tmp_path / "out", tmp_path / "nowhere", "--dest")


def test_a_relative_output_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_files(tmp_path / "d", "0.png"))
    with pytest.raises(UserError, match="lies in"):
        FileTree(".").check_apart("out", "--outdir")
    FileTree(".").check_apart("../out", "--outdir")


def test_opening_images_says_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_files(tmp_path / "d", "x.heic")
    PIL.Image.new("RGB", (8, 8)).save(folder / "a.png")
    assert len(open_images(str(folder))) == 1
    assert (
        capsys.readouterr().err
        == f"Note: Not read in '{folder}': 1 .heic. Convert HEIC files to PNG or JPEG.\n"
    )
