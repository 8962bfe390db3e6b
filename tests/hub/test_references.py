"""What people write or paste to name something on the Hub."""

from __future__ import annotations

import pytest

from erase_plugins.artifacts.reference import Source, parse
from erase_plugins.errors import RequestError


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ("https://huggingface.co/me/no-pizza", Source("me/no-pizza")),
        ("hub:https://huggingface.co/me/no-pizza/", Source("me/no-pizza")),
        ("https://hf.co/me/no-pizza?library=diffusers", Source("me/no-pizza")),
        ("https://huggingface.co/me/no-pizza/tree/v1.2/samples", Source("me/no-pizza", "v1.2")),
        ("https://huggingface.co/me/no-pizza/commit/0123abc", Source("me/no-pizza", "0123abc")),
        ("https://huggingface.co/me/no-pizza/blob/main/README.md", Source("me/no-pizza", "main")),
        (
            "https://huggingface.co/me/no-pizza/resolve/0123abc/edit.safetensors?download=true",
            Source("me/no-pizza", "0123abc"),
        ),
        ("https://huggingface.co/me/no-pizza/tree/refs%2Fpr%2F3", Source("me/no-pizza", "refs/pr/3")),
        ("https://huggingface.co/me/shelf#gun,knife", Source("me/shelf", None, ("gun", "knife"))),
    ],
)
def test_the_address_of_a_page_names_its_repository(pasted, meant):
    assert parse(pasted) == meant


@pytest.mark.parametrize(
    "other", ["https://huggingface.co/datasets/me/pictures", "https://huggingface.co/spaces/me/try", "https://huggingface.co/me",
              "https://huggingface.co/me/no-pizza/tree/..%2F..", "https://huggingface.co/me/no-pizza/tree/a%00b",
              "https://example.org/me/no-pizza"]
)  # fmt: skip
def test_other_addresses_are_refused(other):
    with pytest.raises(RequestError):
        parse(other)
