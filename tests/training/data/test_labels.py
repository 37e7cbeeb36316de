"""``dataset.json``: which names match, repeated ones, odd types, classes without images."""

import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dnnlib.errors import UserError
from training.data.file_tree import FileTree
from training.data.labels import Label, class_counts, notes_on_classes, parse_labels, read_labels


def make(folder: Path, names: list[str], labels: Any, **more: Any) -> FileTree:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, **more}))
    return FileTree(folder)


def found(tree: FileTree) -> list[Label]:
    file = read_labels(tree)
    assert file is not None
    return file.labels_of(tree.image_names)


CAFE = "café"


@pytest.mark.parametrize(
    ("image", "spelled"),
    [
        ("a/0.png", "a/0.png"),
        ("a/0.png", "./a/0.png"),
        ("a/0.png", "a\\0.png"),
        ("a/0.png", "a//./0.png"),
        ("a/0.png", "{folder}/a/0.png"),
        ("a/0.png", "{link}/a/0.png"),
        (unicodedata.normalize("NFD", f"{CAFE}/0.png"), unicodedata.normalize("NFC", f"{CAFE}/0.png")),
        (unicodedata.normalize("NFC", f"{CAFE}/0.png"), unicodedata.normalize("NFD", f"{CAFE}/0.png")),
    ],
)
def test_spellings_that_name_the_same_image(tmp_path: Path, image: str, spelled: str) -> None:
    folder, link = tmp_path / "d", tmp_path / "link"
    link.symlink_to(folder)
    name = spelled.format(folder=folder, link=link)
    make(folder, [image, "b/1.png"], [["b/1.png", 1], [name, 2]])
    tree = FileTree(link if "{link}" in spelled else folder)
    assert dict(zip(tree.image_names, found(tree), strict=True)) == {image: 2, "b/1.png": 1}


def test_names_in_a_zip_of_one_folder_count_from_that_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("faces/0.png", b"")
        archive.writestr("faces/dataset.json", '{"labels": [["./0.png", 3]]}')
    assert found(FileTree(tmp_path / "x.zip")) == [3]


@pytest.mark.parametrize(
    "spelled",
    ["0.png", "./0.png", "/0.png", ".\\0.png", "{folder}/0.png"],
)
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, spelled: str) -> None:
    name = spelled.format(folder=tmp_path / "d")
    tree = make(tmp_path / "d", ["0.png", "1.png"], [["0.png", 0], ["1.png", 1], [name, 2], ["1.png", 2]])
    again = " twice" if name == "0.png" else " and, as "
    with pytest.raises(
        UserError, match=rf"'dataset\.json' in .* has '0.png'{again}.*; give each image one label"
    ):
        read_labels(tree)


def test_two_forms_of_one_name_are_refused(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, f"{CAFE}.png") for form in ("NFC", "NFD")]
    tree = make(tmp_path / "d", forms, [[name, 0] for name in forms])
    with pytest.raises(UserError, match=r"and, as '.*', again"):
        read_labels(tree)
    tree = make(tmp_path / "d", forms, [[forms[0], 0]])
    with pytest.raises(UserError, match="two images are called"):
        found(tree)


def test_capitals_make_names_differ(tmp_path: Path) -> None:
    assert found(make(tmp_path / "d", ["A.png", "a.png"], [["a.png", 0], ["A.png", 1]])) == [1, 0]


@pytest.mark.parametrize("spelled", ["d/{}", "/elsewhere/{}", "{}.jpg"])
def test_both_sides_are_shown_where_names_do_not_match(tmp_path: Path, spelled: str) -> None:
    tree = make(
        tmp_path / "d", ["0.png", "1.png"], [[spelled.format("0.png"), 0], [spelled.format("1.png"), 1]]
    )
    with pytest.raises(UserError) as caught:
        found(tree)
    assert "has no label for 2 of 2 images, '0.png' first" in str(caught.value)
    assert f"its own first name is '{spelled.format('0.png')}'" in str(caught.value)


def test_labels_of_images_that_are_not_there_are_noted(tmp_path: Path) -> None:
    tree = make(tmp_path / "d", ["0.png"], [["0.png", 0], ["b.png", 1], ["a.png", 1]])
    file = read_labels(tree)
    assert file is not None
    assert file.labels_of(tree.image_names) == [0]
    assert "2 labels for images that are not there, 'a.png' first" in file.notes(tree.image_names)[0]
    assert file.notes(["0.png", "a.png", "b.png"]) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[" * 100_000, "nested"),
        ('{"labels":' * 70 + "1" + "}" * 70, "nested deeper"),
        ('{"labels": [["a", 1]], "labels": []}', "key 'labels' is there twice"),
        ('{"labels": {"a": 1}}', r"must be a list of \[name, label\]"),
        ('{"labels": [["a", 1e400]]}', "the label of 'a' is Infinity"),
        ('{"labels": [["a", [1e39]]]}', r"the label of 'a' is \[1e\+39\]"),
        ('{"labels": [["a", [-1e39]]]}', r"the label of 'a' is \[-1e\+39\]"),
        ('{"labels": [["a", [1' + "0" * 400 + "]]]}", "the label of 'a' is"),
        ('{"labels": [["a", 1' + "0" * 400 + "]]}", "classes are numbered from 0 to below 1000000"),
        ('{"labels": [["a", ' + "1" * 5000 + "]]}", "is no valid JSON"),
        ('{"labels": [["a", [true]]]}', r"the label of 'a' is \[true\]"),
        ('{"labels": [["a", [[1]]]]}', r"the label of 'a' is \[\[1\]\]"),
        ('{"labels": [["a", null]]}', "the label of 'a' is null"),
        ('{"labels": [["a"]]}', r"entry 0 of 'labels' must be \[name, label\]"),
        ('{"labels": [[1, 1]]}', "entry 0 of 'labels'"),
        ('{"labels": [["\\ud800\\u001b[31m", -1]]}', r"the label of '\\ud800\\x1b\[31m'"),
        ("\ufeff\x00", "is no valid JSON"),
    ],
)
def test_odd_documents_get_one_printable_line(document: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_labels(document.encode(), "'dataset.json' in 'd'")
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("'dataset.json' in 'd'")
    assert len(str(caught.value)) < 500


def test_the_size_of_a_label_file_is_bounded_by_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.labels.MAX_BYTES", 10)
    monkeypatch.setattr("training.data.labels.MAX_BYTES_AN_IMAGE", 40)
    assert found(make(tmp_path / "d", ["0.png"], [["0.png", 0]])) == [0]
    with pytest.raises(UserError, match="more than the 50 that are read"):
        found(make(tmp_path / "d", ["0.png"], [["0.png", 0], ["1.png", 0], ["2.png", 0]]))


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([1, 2], "from 1 to 2, and 1 of the 3 classes from 0 up has no image (0 first)"),
        ([0, 500], "from 0 to 500, and 499 of the 501 classes from 0 up have no image (1 first)"),
        (
            [0, 1, 99_999],
            "from 0 to 99999, and 99997 of the 100000 classes from 0 up have no image (2 first)",
        ),
    ],
)
def test_classes_without_images_are_noted(labels: list[Label], numbers: str) -> None:
    (note,) = notes_on_classes(labels)
    assert numbers in note


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0], [], [[0.5, 1.0], [2.0, 3.0]], [None]])
def test_no_note_where_no_class_is_empty(labels: list[Label | None]) -> None:
    assert notes_on_classes(labels) == []


def test_classes_are_counted_in_order() -> None:
    assert class_counts([3, 1, 3, None, 1, 3]) == {1: 2, 3: 3}
    assert class_counts([[1.0], [2.0]]) == {}


@pytest.mark.parametrize(
    ("value", "names"), [(["cat", "dog"], ["cat", "dog"]), ({"0": "cat"}, None), ([1, 2], None), (None, None)]
)
def test_names_of_classes_are_read_where_they_are_text(
    tmp_path: Path, value: Any, names: list[str] | None
) -> None:
    """The key is ours; other programs may put anything there, and the labels stay usable."""
    file = read_labels(make(tmp_path / "d", ["0.png"], [["0.png", 1]], class_names=value))
    assert file is not None
    assert file.class_names == names
