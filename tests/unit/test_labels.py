import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidLabel
from core.labels import MAX_LABEL_CHARACTERS, key_of, normalise


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("cat", "cat"),
        ("  ice \t cream\n", "ice cream"),
        ("cafe\u0301", "caf\u00e9"),  # e and a combining accent become one letter
        ("ice\u00a0cream", "ice cream"),
        ("The Eiffel Tower", "The Eiffel Tower"),
        ("猫", "猫"),
        ("🐈", "🐈"),
        ("t-shirt", "t-shirt"),
        ("a..b", "a..b"),
        ("x" * MAX_LABEL_CHARACTERS, "x" * MAX_LABEL_CHARACTERS),
    ],
)
def test_labels_are_kept_as_people_type_them(typed: str, label: str) -> None:
    assert normalise(typed) == label


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " \t ",
        "../../etc",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "c:",
        "cat\x00",
        "cat\x1b[31m",
        "cat\u202egnp",  # turns the direction of reading
        "cat\u200b",
        "--",
        "x" * (MAX_LABEL_CHARACTERS + 1),
        "x" * 10_000,
        "猫" * 64 + "🐈" * 10,
    ],
)
def test_labels_that_could_do_harm_are_refused(typed: str) -> None:
    with pytest.raises(InvalidLabel) as refused:
        normalise(typed)
    assert len(refused.value.message) < 200
    assert refused.value.field == "label"


def test_spellings_of_one_category_share_a_key() -> None:
    assert key_of("Cat") == key_of("cat") == key_of("CAT")
    assert key_of("Straße") == key_of("STRASSE")
    assert key_of("cat") != key_of("cats")


@given(st.text(max_size=300))
def test_a_label_is_refused_or_safe_as_a_folders_name(typed: str) -> None:
    try:
        label = normalise(typed)
    except InvalidLabel:
        return
    assert normalise(label) == label
    assert 0 < len(label) <= MAX_LABEL_CHARACTERS
    assert len(label.encode()) <= 200  # a file system's names have 255 bytes
    assert not set(label) & set('/\\\x00:*?"<>|')
    assert not label.startswith(".")
    assert unicodedata.is_normalized("NFC", label)
    assert key_of(key_of(label)) == key_of(label)


def test_half_a_surrogate_pair_is_refused_not_a_crash() -> None:
    with pytest.raises(InvalidLabel, match=r"U\+D800"):
        normalise("\ud800")
