"""Segmentation of real images by D: the loss, what it reaches, its data, and that it learns."""

import dataclasses
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from dnnlib.errors import UserError
from tests.support.analysis import make_pairs
from tests.support.phases import accumulate, gradients
from tests.support.runs import open_small, small_state
from tests.support.terms import decoded
from training.augment import AugmentPipe
from training.config.schema import TrainConfig
from training.data.batches import image_batches
from training.data.opening import inspect_data, open_dataset
from training.data.paired import UNLABELLED, PairedDataset, is_paired
from training.data.pictures import from_uint8
from training.data.reals import open_reals
from training.objective import Augmentation, Microbatch
from training.phases import Reals, build_phases
from training.run.session import measured_images
from training.run.state import RunState, training_set_kwargs
from training.segmentation import SegmentationRegularizer, pixel_cross_entropy
from training.training_loop import step


def paired_batch(n: Any = 4, classes: Any = 2, resolution: Any = 32) -> Any:
    generator = torch.Generator().manual_seed(1)
    real = torch.randn([n, 3, resolution, resolution], generator=generator).clamp(-1, 1)
    annotations = torch.randint(classes, [n, resolution, resolution], generator=generator, dtype=torch.uint8)
    return Microbatch(
        real, torch.zeros([n, 0]), torch.randn([n, 8], generator=generator), torch.zeros([n, 0]), annotations
    )


def test_cross_entropy_is_the_mean_over_the_labelled_pixels() -> None:
    scores, classes = torch.randn([3, 4, 2, 5]), torch.randint(4, [3, 2, 5], dtype=torch.uint8)
    classes[0, 0] = UNLABELLED
    classes[2] = UNLABELLED
    found = pixel_cross_entropy(scores, classes)
    logs = torch.log_softmax(scores, dim=1)
    expected = [-logs[i, int(classes[i, y, x]), y, x] for i, y in ((0, 1), (1, 0), (1, 1)) for x in range(5)]
    assert found[0].item() == pytest.approx(float(sum(expected[:5]) / 5), rel=1e-5)
    assert found[1].item() == pytest.approx(float(sum(expected[5:]) / 10), rel=1e-5)
    assert found[2] == 0
    with pytest.raises(ValueError, match="do not go with classes"):
        pixel_cross_entropy(scores, classes[:, :1])


def test_the_value_is_weight_times_cross_entropy_of_reals() -> None:
    state = small_state(reg_type="seg", aug="noaug", seg_weight=3)
    batch = paired_batch()
    accumulate(state, "D_main", batch)
    stats = state.stats.flush()
    scores = state.D(batch.real_images, None, return_features=True)[1][32]
    expected = 3 * F.cross_entropy(scores, batch.annotations.long())
    assert stats["Loss/D/loss_seg"].num == 4
    assert stats["Loss/D/loss_seg"].mean == pytest.approx(expected.item(), rel=1e-5)
    assert "Loss/D/loss_gen_reg" not in stats


@pytest.mark.parametrize("aug", ["noaug", "ada"])
def test_fakes_never_reach_the_decoder(aug: Any) -> None:
    """The decoder runs once in D_main, on the real images, and in no other phase."""
    state = small_state(reg_type="seg", aug=aug)
    seen = []
    batch = paired_batch()
    real = batch.real_images
    state.D.b8_dec.register_forward_hook(lambda *_: seen.append("decoder"))
    state.D.b32.register_forward_pre_hook(
        lambda _module, args: seen.append("real" if torch.equal(args[1], real) else "fake")
    )
    for name in ("G_main", "G_reg", "D_reg"):
        accumulate(state, name, batch)
    assert "decoder" not in seen
    state.D.zero_grad()
    seen.clear()
    accumulate(state, "D_main", batch)
    assert seen == ["fake", "real", "decoder"]
    first = {name: g.clone() for name, g in gradients(state.D).items()}
    assert all(first[f"b{res}_dec.{kind}"].any() for res in (8, 16, 32) for kind in ("weight", "bias"))
    state.D.zero_grad()
    state.G.zero_grad()
    with torch.no_grad():
        for p in state.G.synthesis.parameters():
            p.mul_(-1)  # other fakes
    accumulate(state, "D_main", batch)
    assert gradients(state.G) == {}
    for name, gradient in gradients(state.D).items():
        assert torch.equal(gradient, first[name]) == ("_dec." in name), name


@pytest.mark.parametrize("spec", [{"xflip": 1}, {"rotate90": 1}, {"xint": 1}])
def test_the_annotation_moves_with_its_image(spec: Any) -> None:
    """Scores that are the moved image's own classes are right everywhere."""
    pipe = AugmentPipe(**spec)
    classes = torch.zeros([6, 32, 32], dtype=torch.uint8)
    classes[:, 4:12, 2:20] = 1
    images = classes[:, None].float() * 2 - 1
    params = pipe.sample(images, generator=torch.Generator().manual_seed(3))
    moved = pipe.apply(images, params)
    scores = torch.cat([-moved, moved], dim=1) * 20
    term = SegmentationRegularizer(32)
    augmented = Augmentation(pipe, params)
    assert term(decoded(scores, augmented, annotations=classes)).max() < 1e-3
    assert term(decoded(scores, annotations=classes)).max() > 1
    unmoved = torch.cat([-images, images], dim=1) * 20
    assert term(decoded(unmoved, annotations=classes)).max() < 1e-3


def take_steps(state: Any, batch: Any, count: Any) -> None:
    real = ((batch.real_images + 1) * 127.5).to(torch.uint8)
    for _ in range(count):
        step(
            state,
            build_phases(state),
            Reals.of((real, batch.real_labels, batch.annotations), None, torch.device("cpu")),
        )


@pytest.mark.parametrize("aug", ["noaug", "ada"])
def test_with_weight_zero_training_is_the_baseline_bit_for_bit(aug: Any) -> None:
    results = []
    for options in ({"reg_type": "none"}, {"reg_type": "seg", "seg_weight": 0}):
        state = small_state(aug=aug, **options)
        take_steps(state, paired_batch(), 5)
        results.append((state.G.state_dict(), state.D.state_dict(), state.stats.flush()))
    (G0, D0, stats0), (G1, D1, stats1) = results
    assert all(torch.equal(G0[key], G1[key]) for key in G0)
    assert all(torch.equal(D0[key], D1[key]) for key in D0)
    assert {name: summary for name, summary in stats1.items() if name != "Loss/D/loss_seg"} == stats0


def test_without_annotations_it_says_so() -> None:
    with pytest.raises(ValueError, match="needs annotations"):
        accumulate(
            small_state(reg_type="seg"), "D_main", dataclasses.replace(paired_batch(), annotations=None)
        )


def opened(
    root: Path, *, mirror: bool = False, subset: int | None = None, **options: Any
) -> tuple[TrainConfig, PairedDataset]:
    config, dataset = open_small(root, mirror=mirror, subset=subset, reg_type="seg", **options)
    assert isinstance(dataset, PairedDataset)
    return config, dataset


@pytest.mark.parametrize(
    ("p", "steps", "least"), [(None, 40, 0.97), pytest.param(0.3, 300, 0.94, marks=pytest.mark.slow)]
)
def test_a_handful_of_pairs_is_learned_by_heart(tmp_path: Path, p: Any, steps: Any, least: Any) -> None:
    """Discs on ground: nearly every pixel of the real images gets its class, augmented or not."""
    aug = {"aug": "noaug"} if p is None else {"aug": "fixed", "p": p}
    config, dataset = opened(
        make_pairs(tmp_path / "pairs", count=4, resolution=16), mirror=True, dlr=0.02, batch=8, **aug
    )
    state = RunState.fresh(config, torch.device("cpu"))
    batches = image_batches(dataset, batch_size=8, seed=0, workers=0)
    (d_main,) = (phase for phase in build_phases(state) if phase.name == "D_main")
    before = accuracy(state, dataset)
    for _ in range(steps):
        step(state, [d_main], Reals.of(next(batches), dataset, torch.device("cpu")))
    assert before < 0.9
    assert accuracy(state, dataset) > least


def accuracy(state: RunState, dataset: PairedDataset) -> float:
    images = from_uint8(torch.from_numpy(np.stack([dataset[i][0] for i in range(len(dataset))])))
    classes = torch.from_numpy(np.stack([dataset.classes(i) for i in range(len(dataset))]))
    with torch.no_grad():
        guess = state.D(images, None, return_features=True)[1][dataset.resolution].argmax(dim=1)
    return float((guess == classes).float().mean())


def zipped(root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, str(path.relative_to(root)))
    return target


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("budget", [0, 1024])
def test_items_of_folder_and_zip(tmp_path: Path, kind: Any, budget: Any) -> None:
    """Image and annotation of one name come together: in subsets, mirrored, from memory, and from workers."""
    folder = make_pairs(tmp_path / "pairs", count=7, resolution=16)
    root = folder if kind == "folder" else zipped(folder, tmp_path / "pairs.zip")
    data = PairedDataset(root, max_size=5, xflip=True, random_seed=3, memory_budget_mb=budget)
    assert (len(data), data.num_images, data.num_classes, data.in_memory, is_paired(str(root))) == (
        10,
        5,
        2,
        budget > 0,
        True,
    )
    for i in range(10):
        image, _, classes = data.sample(i)
        assert np.array_equal(image[0] > 100, classes == 1)  # the disc is bright
        assert np.array_equal(classes, data.classes((i + 5) % 10)[:, ::-1])
    batches = image_batches(data, batch_size=4, seed=0, workers=2 if budget == 0 else 0)
    reals, labels, annotations = next(batches)
    batches.close()
    assert [tensor.shape for tensor in (reals, labels, annotations)] == [(4, 3, 16, 16), (4, 0), (4, 16, 16)]
    assert annotations.dtype == torch.uint8
    assert torch.equal(reals[:, 0] > 100, annotations == 1)


def test_what_a_run_records_and_measures(tmp_path: Path) -> None:
    """Snapshots and metrics have the images alone; annotations are part of the data's identity."""
    root = make_pairs(tmp_path / "pairs", count=6)
    config, dataset = opened(root, mirror=True, metrics=("fid5_full",))
    assert (config.data.path, config.data.annotation_classes, config.data.image_path) == (
        str(root),
        2,
        f"{root}/images",
    )
    assert config.description.startswith("pairs-mirror-auto1")
    again = TrainConfig.from_dict(config.to_dict())
    assert again == config
    assert len(open_dataset(again.data)) == 12
    reals = measured_images(config, dataset)
    assert (len(reals), reals.num_channels) == (6, 3)
    identity = dataset.identity()
    path = next((root / "annotations").iterdir())
    PIL.Image.fromarray(1 - np.asarray(PIL.Image.open(path))).save(path)
    changed = opened(root, mirror=True)[1]
    assert changed.identity() != identity
    assert changed.fingerprint() == dataset.fingerprint()


def test_a_run_s_images_in_a_zip_are_found_again(tmp_path: Path) -> None:
    """By what a network pickle says of them: for metrics and for pictures."""
    path = str(zipped(make_pairs(tmp_path / "pairs", count=3), tmp_path / "pairs.zip"))
    config, _ = opened(path)
    kwargs, G = training_set_kwargs(config), small_state().G
    assert len(open_reals(kwargs, None, G)) == 3
    Path(path).unlink()
    with pytest.raises(
        UserError, match=r"pairs\.zip/images', which the network was trained on, is not there"
    ):
        open_reals(kwargs, None, G)


def damaged(root: Path, kind: str) -> Path:  # noqa: C901 - a list of kinds
    images, annotations = sorted((root / "images").iterdir()), sorted((root / "annotations").iterdir())
    if kind == "no annotations":
        shutil.rmtree(root / "annotations")
    elif kind == "plain":
        return root / "images"
    elif kind == "lacking one":
        annotations[1].unlink()
    elif kind == "one too many":
        images[1].unlink()
    elif kind == "another size":
        PIL.Image.new("L", (16, 16)).save(annotations[1])
    elif kind == "all of another size":
        for path in annotations:
            PIL.Image.new("L", (16, 16)).save(path)
    elif kind == "colour":
        shutil.copy(images[1], annotations[1])
    elif kind == "no class map":
        PIL.Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32) % 255).save(annotations[1])
    elif kind == "one class":
        for path in annotations:
            PIL.Image.new("L", (32, 32)).save(path)
    return root


BAD = [
    (
        "no annotations",
        r"annotations' is not there; a paired data set has the folders images and annotations",
    ),
    ("plain", r"images/images' is not there"),
    ("lacking one", r"'0001\.png' is in only one of images and annotations"),
    ("one too many", r"'0001\.png' is in only one of images and annotations"),
    ("another size", r"'0001\.png' in '.*annotations' is 16x16 greyscale, but '0000\.png' is 32x32"),
    ("all of another size", r"are 16x16 with 1 channels; they must be 32x32 like the images"),
    ("colour", r"'0001\.png' in '.*annotations' is 32x32 RGB"),
    (
        "no class map",
        r"'0001\.png' in '.*annotations' has class 254; classes are 0 to 199 here, and 255 is unlabelled",
    ),
    ("one class", r"tell no two classes apart"),
]


@pytest.mark.parametrize(("kind", "message"), BAD, ids=[kind for kind, _ in BAD])
def test_data_that_is_not_paired(tmp_path: Path, kind: Any, message: Any) -> None:
    root = damaged(make_pairs(tmp_path / "pairs", count=3), kind)
    with pytest.raises(UserError, match=message) as caught:
        inspect_data(str(root), cond=False, subset=None, mirror=False, seed=0, annotated=True)
    assert "\n" not in str(caught.value)


def test_a_paired_data_set_without_segmentation(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "pairs", count=3)
    with pytest.raises(UserError, match=r"give --data=.*pairs/images, or --reg_type=seg"):
        inspect_data(str(root), cond=False, subset=None, mirror=False, seed=0)
    assert (
        inspect_data(f"{root}/images", cond=False, subset=None, mirror=False, seed=0)[0].annotation_classes
        == 0
    )


def test_a_class_that_was_not_there_at_the_start(tmp_path: Path) -> None:
    config, _ = opened(root := make_pairs(tmp_path / "pairs", count=3))
    PIL.Image.new("L", (32, 32), 2).save(root / "annotations" / "0002.png")
    with pytest.raises(
        UserError, match=r"'0002\.png' in '.*annotations' has class 2; classes are 0 to 1 here"
    ):
        open_dataset(config.data).sample(2)
