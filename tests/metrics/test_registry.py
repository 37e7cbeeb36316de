import pytest

from dnnlib.errors import UserError
from metrics.perceptual_path_length import PathSampling
from metrics.registry import FAMILIES, parse_metric, parse_metrics


@pytest.mark.parametrize(
    ("name", "template", "count"),
    [
        ("fid50k_full", "fid{count}_full", 50_000),
        ("fid200_full", "fid{count}_full", 200),
        ("fid5k_full", "fid{count}_full", 5_000),
        ("pr50k3_full", "pr{count}3_full", 50_000),
        ("pr5k3_full", "pr{count}3_full", 5_000),
        ("pr2003_full", "pr{count}3_full", 200),
        ("pr333_full", "pr{count}3_full", 33),
        ("kid50k_full", "kid{count}_full", 50_000),
        ("dc1k5_full", "dc{count}5_full", 1_000),
        ("is50k", "is{count}", 50_000),
        ("fid5k", "fid{count}", 5_000),
        ("kid5k", "kid{count}", 5_000),
        ("pr5k3", "pr{count}3", 5_000),
        ("ppl2_wend", "ppl2_[{count}_]wend", 50_000),
        ("ppl2_200_wend", "ppl2_[{count}_]wend", 200),
        ("ppl_zfull", "ppl_[{count}_]zfull", 50_000),
        ("ppl_2k_wfull", "ppl_[{count}_]wfull", 2_000),
        ("ppl_zend", "ppl_[{count}_]zend", 50_000),
        ("ppl_wend", "ppl_[{count}_]wend", 50_000),
    ],
)
def test_any_count(name: str, template: str, count: int) -> None:
    metric = parse_metric(name)
    assert (metric.name, metric.family.template, metric.count) == (name, template, count)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fid",
        "fid_full",
        "fid0_full",
        "fid05k_full",
        "fid50kk_full",
        "fid50k_half",
        "fid50K_full",
        "pr50k_full",
        "pr50k4_full",
        "fid-5_full",
        "ppl50k_wend",
        "ppl2_wfull",
        "ppl2_05k_wend",
        "ppl2__wend",
        "is50k_full",
        "dc50k5",
    ],
)
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(
        UserError,
        match=r"known are fid50k_full, kid50k_full, pr50k3_full, dc50k5_full, .*each with any count",
    ):
        parse_metric(name)


@pytest.mark.parametrize("name", ["fid1_full", "pr33_full", "dc55_full", "kid1", "is9", "ppl2_1_wend"])
def test_counts_too_small_for_the_metric(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' needs a count of at least"):
        parse_metric(name)


def test_lists() -> None:
    assert [m.name for m in parse_metrics("pr5k3_full, fid5k_full,pr5k3_full")] == [
        "pr5k3_full",
        "fid5k_full",
    ]
    assert [m.name for m in parse_metrics(("fid5k_full",))] == ["fid5k_full"]
    for empty in ("", "none", [], ["none"]):
        assert parse_metrics(empty) == []
    with pytest.raises(UserError, match="unknown metric 'none'"):
        parse_metrics("none,fid5k_full")


def test_auto_and_other_detectors() -> None:
    fid, pr = parse_metric("fid50k_full"), parse_metric("pr50k3_full")
    assert (fid.detector_name("auto"), pr.detector_name("auto"), pr.detector_name("x.pt")) == (
        "inception",
        "vgg16",
        "x.pt",
    )


def test_every_name_of_the_reference_and_no_name_of_two_families() -> None:
    recommended, older = (
        "fid50k_full kid50k_full pr50k3_full ppl2_wend is50k",
        "fid50k kid50k pr50k3 ppl_zfull ppl_wfull ppl_zend ppl_wend",
    )
    assert [
        family.reference_name for family in FAMILIES if family.reference_name != "dc50k5_full"
    ] == f"{recommended} {older}".split()
    for name in [family.reference_name for family in FAMILIES]:
        assert [family.match(name) for family in FAMILIES if family.match(name)] == [50_000]


def test_which_reals() -> None:
    def numbers(name: str) -> tuple[int, int]:
        metric = parse_metric(name)
        return metric.real_count(30_000), metric.real_count(2_000_000)

    assert numbers("fid50k_full") == (30_000, 2_000_000)
    assert numbers("kid50k_full") == (30_000, 1_000_000)
    assert numbers("pr50k3_full") == numbers("dc50k5_full") == (30_000, 200_000)
    assert numbers("fid5k") == numbers("kid5k") == numbers("pr5k3") == (5_000, 5_000)
    assert numbers("fid50k") == (30_000, 50_000)
    assert numbers("is50k") == numbers("ppl2_wend") == numbers("ppl_zfull") == (0, 0)


@pytest.mark.parametrize(
    ("name", "space", "sampling", "crop"),
    [
        ("ppl2_wend", "w", "end", False),
        ("ppl_zfull", "z", "full", True),
        ("ppl_wfull", "w", "full", True),
        ("ppl_zend", "z", "end", True),
        ("ppl_wend", "w", "end", True),
    ],
)
def test_paths(name: str, space: str, sampling: str, crop: bool) -> None:
    paths = parse_metric(name).family.statistic
    assert isinstance(paths, PathSampling)
    assert (paths.space, paths.sampling, paths.crop, paths.epsilon) == (space, sampling, crop, 1e-4)


def test_detectors_of_the_reference() -> None:
    chosen = {family.reference_name: family.reference_detector for family in FAMILIES}
    assert {name for name, detector in chosen.items() if detector == "vgg16"} == {
        n for n in chosen if n[:2] in ("pr", "dc", "pp")
    }
    assert {name for name, detector in chosen.items() if detector == "inception"} == {
        n for n in chosen if n[:2] in ("fi", "ki", "is")
    }
