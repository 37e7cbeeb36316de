"""Addresses: what of one is kept and shown, which are valid, and the whole of it for the download."""

from collections.abc import Iterator

import pytest

from dnnlib import addresses
from dnnlib.addresses import (
    check_address,
    conceal,
    public_address,
    public_text,
    public_values,
    reveal,
    with_suffix,
)
from dnnlib.errors import UserError


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    addresses.forget()
    yield
    addresses.forget()


@pytest.mark.parametrize(
    ("whole", "public"),
    [
        ("https://host/a.pkl", "https://host/a.pkl"),
        ("https://host:81/a/@b/c.pkl", "https://host:81/a/@b/c.pkl"),
        ("https://me:s3cret@host/a.pkl", "https://host/a.pkl"),
        ("https://s3cret@host/a.pkl", "https://host/a.pkl"),
        ("https://me:s3@cret@host/a.pkl", "https://host/a.pkl"),
        ("HTTPS://me:s3cret@[::1]:8/a.pkl", "HTTPS://[::1]:8/a.pkl"),
        ("https://host/a.pkl?token=s3cret", "https://host/a.pkl?..."),
        ("https://host/a.pkl?s3cret", "https://host/a.pkl?..."),
        ("https://host?s3cret", "https://host?..."),
        ("https://host/a.pkl?X-Amz-Credential=me&X-Amz-Signature=s3cret#s3cret", "https://host/a.pkl?..."),
        ("https://host/a.pkl;key=s3cret/b.pkl;s3cret", "https://host/a.pkl/b.pkl"),
        ("https://host/a.pkl#sha256=" + "0" * 64, "https://host/a.pkl#sha256=" + "0" * 64),
        ("https://host/a.pkl#s3cret", "https://host/a.pkl"),
        ("https://me:s3/cret@host/a.pkl", "https://..."),
        ("https://me:s3#cret@host/a.pkl", "https://..."),
        ("https://me:s3?cret@host/a.pkl", "https://..."),
        ("https://[::1/s3cret", "https://..."),
        ("ftp://me:s3cret@host/a.pkl", "ftp://host/a.pkl"),
        ("nets/a;b?c=d#e.pkl", "nets/a;b?c=d#e.pkl"),
        ("C:\\nets\\a.pkl", "C:\\nets\\a.pkl"),
    ],
)
def test_the_public_form_has_no_credentials(whole: str, public: str) -> None:
    assert public_address(whole) == public
    assert public_address(public) == public
    assert public_text(f"cannot read '{whole}' ({whole}); try") == f"cannot read '{public}' ({public}); try"
    assert public_values({"a": [whole, 1, None]}) == {"a": [public, 1, None]}


def test_the_whole_address_stays_in_the_process() -> None:
    whole = "https://me:s3cret@host/a.safetensors?token=s3cret"
    public = conceal(whole)
    assert public == "https://host/a.safetensors?..."
    assert reveal(public) == whole
    assert conceal(public) == public
    assert reveal(with_suffix(public, ".json")) == "https://me:s3cret@host/a.json?token=s3cret"
    assert conceal("https://you:other@host/a.safetensors?token=s3cret") == public
    with pytest.raises(
        UserError, match=r"differ only in their queries.*https://host/a.safetensors\?\.\.\.; download one"
    ):
        conceal("https://host/a.safetensors?token=other")
    addresses.forget()
    assert reveal(public) == public


@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://",
            "http:///x",
            "http://[::1/x",
            "http://a:99999/x",
            "http://a:0/x",
            "http://a:b/x",
            "http://.a/x",
            "http://a..b/x",
        ),
        *(
            "http://\0/x",
            "http://a/\n",
            "http://" + "a" * 300 + "/x",
            "http://\ud800/x",
            "http://a/\ud800",
            "http://a\x1b[31m/x",
        ),
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UserError, match="is no valid address") as caught:
        check_address(address)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
