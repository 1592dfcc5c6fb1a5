"""Text by Specific Character Set: the examples of PS3.5 Annexes H, I, J and K, and what real files get wrong."""

import pytest

from dicomnode.attributes.charsets import UNDECLARED, UNICODE, Charset, best

STANDARD_EXAMPLES = [
    # PS3.5 H.3.1, H.3.2, I.2, J.1, J.2, K.2
    (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (["ISO_IR 192"], "Wang^XiaoDong=王^小东".encode(), "Wang^XiaoDong=王^小东"),
    (["GB18030"], b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"),
    (["GBK"], b"Zhang^XiaoDong=\xd5\xc5^\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东"),
    (["ISO_IR 126"], bytes([0xC4, 0xE9, 0xEF, 0xED, 0xF5, 0xF3, 0xE9, 0xEF, 0xF2]), "Διονυσιος"),
    (["ISO_IR 144"], bytes([0xBB, 0xEE, 0xDA, 0x63, 0x65, 0xDC, 0xD1, 0x79, 0x70, 0xD3]), "Люкceмбypг"),
    (["ISO_IR 127"], bytes([0xE2, 0xC8, 0xC7, 0xE6, 0xEA]), "قباني"),
    (["ISO_IR 138"], bytes([0xF9, 0xF8, 0xE5, 0xEF]), "שרון"),
    (["ISO_IR 100"], b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    (["ISO_IR 101"], b"W\xb1\xb6", "Wąś"),
    (["ISO_IR 109"], b"\xc6", "Ĉ"),
    (["ISO_IR 110"], b"\xa3", "Ŗ"),
    (["ISO_IR 148"], b"\xdeim\xfeek", "Şimşek"),
    (["ISO_IR 166"], b"\xb9\xd2\xc1", "นาม"),
    (["ISO_IR 13"], b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
    (["", "ISO 2022 IR 159"], b"\x1b$(D\x30\x21\x1b(B", "丂"),
    (["ISO_IR 203"], b"\xbcuvre^\xa4", "Œuvre^€"),
    (["ISO 2022 IR 6", "ISO 2022 IR 203"], b"\x1b-b\xbcuvre^\x1b-b\xa4", "Œuvre^€"),
    (["ISO 2022 IR 6", "ISO 2022 IR 100"], b"Buc^J\x1b-A\xe9r\xf4me", "Buc^Jérôme"),
    (["ISO 2022 IR 100", "ISO 2022 IR 144"], b"J\xe9r\xf4me \x1b-L\xbb\xee\xda^\xe9", "Jérôme Люк^é"),
    # G0 goes back to ASCII, and what was designated to G1 stays (PS3.5 6.1.2.5.3).
    (["", "ISO 2022 IR 87", "ISO 2022 IR 144"], b"\x1b-L\xbb\x1b$B;3\x1b(B\xee\xda", "Л山юк"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], b"\xd4\x1b$B;3\x1b(J\xcf", "ﾔ山ﾏ"),
    (["", "ISO 2022 IR 58"], b"Zhang=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang=张^小东"),
]


@pytest.mark.parametrize(("terms", "encoded", "text"), STANDARD_EXAMPLES)
def test_text_of_every_character_set_is_read(terms: list[str], encoded: bytes, text: str) -> None:
    assert Charset.of(terms).decode(encoded) == text


@pytest.mark.parametrize(("terms", "encoded", "text"), STANDARD_EXAMPLES)
def test_what_a_set_carries_it_writes_and_reads_back(terms: list[str], encoded: bytes, text: str) -> None:
    charset = best([text], [Charset.of(terms)])
    assert charset.decode(charset.encode(text)) == text


@pytest.mark.parametrize("terms", [["ISO_IR 100"], ["GB18030"], ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"]])
def test_the_stored_set_is_kept_where_it_can_be(terms: list[str]) -> None:
    text = {"ISO_IR 100": "Jérôme", "GB18030": "王^小东", "ISO 2022 IR 87": "山田", "ISO 2022 IR 149": "홍^길동"}[
        terms[-1]
    ]
    assert best([text, "plain"], [Charset.of(terms)]) == Charset.of(terms)


def test_what_no_preferred_set_carries_is_written_in_utf8() -> None:
    assert best(["山田", "Jérôme"], [Charset.of(["ISO_IR 100"]), Charset.of(["", "ISO 2022 IR 149"])]) == UNICODE
    assert best(["Jérôme"], [Charset.of(["", "ISO 2022 IR 87"])]) == UNICODE


@pytest.mark.parametrize(("terms", "encoded", "text"), STANDARD_EXAMPLES)
def test_every_set_carries_its_own_examples(terms: list[str], encoded: bytes, text: str) -> None:
    """And writes the very bytes, where no escape sequence is written again that is in force."""
    charset = Charset.of(terms)
    assert charset.carries([text])
    assert len(charset.encode(text)) <= len(encoded)


def test_a_set_that_stands_alone_has_no_extensions() -> None:
    assert Charset.of(["ISO_IR 192", "ISO 2022 IR 87"]) == UNICODE
    assert Charset.of(["GB18030", ""]).terms == ("GB18030",)


def test_extensions_whose_escape_sequences_were_left_out() -> None:
    assert Charset.of(["", "ISO 2022 IR 149"]).decode("홍^길동".encode("euc_kr")) == "홍^길동"
    assert Charset.of(["", "ISO_IR 192"]).decode("山田".encode()) == "山田"


def test_plain_ascii_declares_nothing() -> None:
    assert best(["Smith^John"], [Charset.of(["ISO_IR 100"])]) == UNDECLARED


@pytest.mark.parametrize(
    ("spelt", "term"),
    [("ISO IR 100", "ISO_IR 100"), ("ISO-IR 100", "ISO_IR 100"), ("iso_ir 192", "ISO_IR 192"), ("utf-8", "ISO_IR 192"),
     ("ISO_2022_IR_87", "ISO 2022 IR 87"), ("ISO2022 IR 149", "ISO 2022 IR 149")],
)  # fmt: skip
def test_misspelt_terms_are_put_right(spelt: str, term: str) -> None:
    assert Charset.of([spelt]).terms == (term,)


def test_unknown_terms_are_left_out() -> None:
    assert Charset.of(["KLINGON", "ISO_IR 999"]) == UNDECLARED


def test_undeclared_bytes_are_utf8_else_latin1() -> None:
    assert UNDECLARED.decode("Jérôme".encode()) == "Jérôme"
    assert UNDECLARED.decode(b"J\xe9r\xf4me") == "Jérôme"


def test_damaged_bytes_become_replacement_characters_without_a_warning() -> None:
    assert "\ufffd" in Charset.of(["ISO_IR 192"]).decode(b"a\xff\xfeb")
    assert "\ufffd" in Charset.of(["", "ISO 2022 IR 87"]).decode(b"\x1b$B\xff\xff")
    assert Charset.of(["", "ISO 2022 IR 87"]).decode(b"\x1b%Gabc").endswith("abc")


def test_korean_without_an_escape_after_each_delimiter_is_read() -> None:
    assert Charset.of(["", "ISO 2022 IR 149"]).decode(b"\x1b$)C\xc8\xab^\xb1\xe6\xb5\xbf") == "홍^길동"
