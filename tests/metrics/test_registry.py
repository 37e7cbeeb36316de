import pytest

from dnnlib.errors import UserError
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
        "fid50k",
        "fid50K_full",
        "pr50k_full",
        "pr50k4_full",
        "fid-5_full",
        "kid50k_full",
    ],
)
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="known are fid50k_full, pr50k3_full, each with any count"):
        parse_metric(name)


@pytest.mark.parametrize("name", ["fid1_full", "pr33_full"])
def test_counts_too_small_for_the_metric(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' needs a count of at least"):
        parse_metric(name)


def test_lists() -> None:
    assert [m.name for m in parse_metrics("pr5k3_full, fid5k_full,pr5k3_full")] == ["pr5k3_full", "fid5k_full"]
    assert [m.name for m in parse_metrics(("fid5k_full",))] == ["fid5k_full"]
    for empty in ("", "none", [], ["none"]):
        assert parse_metrics(empty) == []
    with pytest.raises(UserError, match="unknown metric 'none'"):
        parse_metrics("none,fid5k_full")


def test_reference_detectors_and_numbers_of_reals() -> None:
    fid, pr = parse_metric("fid50k_full"), parse_metric("pr50k3_full")
    assert (fid.detector_name("auto"), pr.detector_name("auto"), pr.detector_name("x.pt")) == ("inception", "vgg16", "x.pt")
    assert (fid.real_count(10**6), pr.real_count(10**6), pr.real_count(70_000)) == (10**6, 200_000, 70_000)


def test_every_family_matches_its_own_template() -> None:
    for family in FAMILIES:
        assert family.match(family.template.format(count="5k")) == 5000
