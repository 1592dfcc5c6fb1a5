"""Every Specific Character Set: stored by C-STORE, matched by C-FIND, returned in bytes that others read."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from dicomnode.attributes import charsets
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.quiet import quiet_pydicom

PATIENT = PatientRootQueryRetrieveInformationModelFind
STUDY = StudyRootQueryRetrieveInformationModelFind
UTF8 = charsets.UTF8  # its module teaches pydicom ISO_IR 203


@dataclass(frozen=True)
class Script:
    """A character set, a name and other text in it, and how it is written, by Python's codecs and not by ours.

    `codecs`: the escape sequence before a component and its codec; the first that has the component's characters.
    """

    terms: tuple[str, ...]
    name: str  # alphabetic=ideographic=phonetic
    text: str
    codecs: tuple[tuple[bytes, str], ...]
    standard: bytes = b""  # the name as PS3.5 prints it

    @property
    def key(self) -> str:
        return "+".join(self.terms).replace("ISO", "").replace(" ", "")

    @property
    def groups(self) -> list[str]:
        return self.name.split("=")

    def written(self, text: str) -> bytes:
        pieces = re.split(r"([\^=\r\n])", text)
        return b"".join(self._component(piece) for piece in pieces)

    def read(self, value: bytes) -> str:
        """Bytes of this set as text; of two sets only what `written` writes."""
        if len(self.codecs) > 1:
            return next((text for text in (self.name, self.text, self.comments) if self.written(text) == value), "")
        ((escape, codec),) = self.codecs
        return (value.replace(escape, b"") if escape else value).decode(codec)

    @property
    def comments(self) -> str:
        return f"{self.text}\r\n{self.text}"

    def _component(self, text: str) -> bytes:
        if text.isascii():
            return text.encode("ascii")
        for escape, codec in self.codecs:
            with suppress(UnicodeError):
                return self._back(escape + text.encode(codec))
        raise AssertionError(text)

    def _back(self, encoded: bytes) -> bytes:
        """Python brings ASCII back behind JIS; where the first set is JIS X 0201 its left half must come back."""
        is_roman = self.terms[0] == "ISO 2022 IR 13" and encoded.endswith(b"\x1b(B")
        return encoded[:-1] + b"J" if is_roman else encoded


def plain(codec: str) -> tuple[tuple[bytes, str], ...]:
    return ((b"", codec),)


LATIN = "Buc^Jérôme=Ñandú^Ü=Öre^Å"
LATIN9 = "Šœur^Žoé=Œdipe^Ÿ=Müller^Š"
THAI = "นามสกุล^สมชาย=ทองดี^มานะ=แก้ว^ใจ"
SCRIPTS = [
    Script(("ISO_IR 100",), LATIN, "Größe über Füße", plain("latin-1")),
    Script(("ISO_IR 101",), "Wąłęsa^Čeněk=Łódź^Š=Őri^Ű", "Žluťoučký kůň", plain("iso8859-2")),
    Script(("ISO_IR 109",), "Ĉapelisto^Ĝojo=Ħal^Ġ=Ŝaŭm^Ĵ", "Eĥoŝanĝo ĉiuĵaŭde", plain("iso8859-3")),
    Script(("ISO_IR 110",), "Ķēniņš^Ģirts=Ŗūsiņš^Ū=Ąžuolas^Ė", "Glāžšķūņa rūķīši", plain("iso8859-4")),
    Script(("ISO_IR 126",), "Διονυσιος^Άννα=Σωκρατης^Ω=Ήρα^Ψ", "Θώρακας", plain("iso8859-7")),
    Script(("ISO_IR 127",), "قباني^لنزار=محمد^علي=فاطمة^نور", "صدر", plain("iso8859-6")),
    Script(("ISO_IR 138",), "שרון^דבורה=כהן^דוד=לוי^שרה", "בית חזה", plain("iso8859-8")),
    Script(("ISO_IR 144",), "Люкceмбypг^Анна=Пушкин^А=Чехов^Я", "Грудная клетка", plain("iso8859-5")),
    Script(("ISO_IR 148",), "Çavuşoğlu^Ahmet=Şimşek^Ö=Ğül^Ü", "Göğüs ağrısı", plain("iso8859-9")),
    Script(("ISO_IR 166",), THAI, "ทรวงอก", plain("tis-620")),
    Script(("ISO_IR 203",), LATIN9, "prix en €", plain("iso8859-15")),
    Script(("ISO_IR 13",), "ﾔﾏﾀﾞ^ﾀﾛｳ=ｽｽﾞｷ^ﾊﾅｺ=ｻﾄｳ^ｼﾞﾛｳ", "ｷｮｳﾌﾞ", plain("shift_jis")),
    Script((UTF8,), "Wang^XiaoDong=王^小东=Ван^Сяодун", "胸部 Грудь Θώρακας", plain("utf-8")),
    Script(("GB18030",), "Wang^XiaoDong=王^小东=ㄨㄤˊ^ㄒㄧㄠˇ", "胸部正位", plain("gb18030")),
    Script(("GBK",), "Zhang^XiaoDong=张^小东=ㄓㄤ^ㄒㄧㄠ", "胸部正位", plain("gbk")),
    Script(
        ("", "ISO 2022 IR 87"),
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "胸部正面",
        plain("iso2022_jp"),
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    Script(
        ("ISO 2022 IR 13", "ISO 2022 IR 87"),
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        "胸部",
        (*plain("iso2022_jp"), *plain("shift_jis")),
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    Script(("", "ISO 2022 IR 159"), "Kake^Ban=丂丄^丅=丌^丒", "丂丄丅", plain("iso2022_jp_2")),
    Script(
        ("", "ISO 2022 IR 87", "ISO 2022 IR 159"),
        "Kake^Jiro=山田^丂=やまだ^丄",
        "胸部丂",
        (*plain("iso2022_jp"), *plain("iso2022_jp_2")),
    ),
    Script(
        ("", "ISO 2022 IR 149"),
        "Hong^Gildong=洪^吉洞=홍^길동",
        "흉부 정면",
        ((b"\x1b$)C", "euc_kr"),),
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    Script(
        ("", "ISO 2022 IR 58"),
        "Zhang^XiaoDong=张^小东=王^东",
        "胸部正位",
        ((b"\x1b$)A", "gb2312"),),
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=\x1b$)A\xcd\xf5^\x1b$)A\xb6\xab",
    ),
    Script(("ISO 2022 IR 6", "ISO 2022 IR 203"), LATIN9, "prix en €", ((b"\x1b-b", "iso8859-15"),)),
    Script(("ISO 2022 IR 6", "ISO 2022 IR 100"), LATIN, "Größe", ((b"\x1b-A", "latin-1"),)),
    Script(
        ("ISO 2022 IR 100", "ISO 2022 IR 144"),
        "Jérôme^Ü=Люк^Анна=Öre^Чехов",
        "Größe",
        (*plain("latin-1"), (b"\x1b-L", "iso8859-5")),
    ),
    Script(("ISO 2022 IR 6", "ISO 2022 IR 166"), THAI, "ทรวงอก", ((b"\x1b-T", "tis-620"),)),
]
BY_KEY = {script.key: script for script in SCRIPTS}
assert len(BY_KEY) == len(SCRIPTS)


def patient_id(script: Script) -> bytes:
    return b"CS%02d" % SCRIPTS.index(script)


def film(script: Script) -> Dataset:
    """A film whose texts are in a character set: names and descriptions, also inside a sequence."""
    facts = FilmFacts(patient_id(script).decode(), "", "O", "", "20240101", seed=f"charset {script.key}")
    dataset = dx_dataset(np.full((32, 32), 100, np.uint16), facts)
    text = script.written(script.text)
    put(
        dataset, SpecificCharacterSet="\\".join(script.terms).encode(), PatientName=script.written(script.name),
        StudyDescription=text, InstitutionName=text, AccessionNumber=script.written(script.text[:8].strip()),
        PatientComments=text + b"\r\n" + text, RequestAttributesSequence=step(text),
    )  # fmt: skip
    return dataset


def step(description: bytes) -> bytes:
    """An item with a Scheduled Procedure Step Description (0040,0007), PS3.5 7.5."""
    padded = description + b" " * (len(description) % 2)
    body = b"\x40\x00\x07\x00LO" + len(padded).to_bytes(2, "little") + padded
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body


def put(dataset: Dataset, **values: bytes) -> None:
    """Elements with these very bytes."""
    for keyword, value in values.items():
        tag = Tag(keyword)
        padded = value + b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    dataset.set_original_encoding(False, True, dataset._character_set)  # else pydicom would decode and encode them


@pytest.fixture(scope="module")
def stored(node, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("films")
    paths = [folder / f"{number}.dcm" for number in range(len(SCRIPTS))]
    for script, path in zip(SCRIPTS, paths, strict=True):
        film(script).save_as(path, enforce_file_format=True)
        assert (script.standard or script.written(script.name)) in path.read_bytes()
    assert [sent for sent in client.send(node.peer, paths) if not sent.ok] == []


@contextmanager
def finder(node, model: str = PATIENT) -> Iterator:
    """A function that asks with keys and character sets, on one association."""
    entity = AE()
    entity.add_requested_context(model, ExplicitVRLittleEndian)
    negotiated = list(client._relational())
    negotiated[0].sop_class_uid = model
    association = entity.associate(
        "127.0.0.1", node.port, ae_title="DICOMNODE", ext_neg=negotiated, evt_handlers=client.WITHOUT_DELAY
    )
    assert association.is_established

    def find(level: str, terms: tuple[str, ...], **keys: bytes) -> list[Dataset]:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        put(identifier, **({"SpecificCharacterSet": "\\".join(terms).encode()} if terms else {}), **keys)
        while association._is_paused:  # pynetdicom's reactor takes the answer of a request that comes before it goes on
            time.sleep(0.001)
        answers = list(association.send_c_find(identifier, model))
        assert [status.Status for status, _ in answers] == [*[0xFF00] * (len(answers) - 1), 0x0000]
        return [match for _, match in answers[:-1]]

    yield find
    association.release()


def declared(match: Dataset) -> tuple[str, ...]:
    value = match.get("SpecificCharacterSet") or ()
    return (value,) if isinstance(value, str) else tuple(value)


def raw(match: Dataset, keyword: str) -> bytes:
    """The bytes of an answer's element, without padding; its length says that they were not changed."""
    return match.get_item(keyword).value.rstrip(b" ")


def patterns(script: Script) -> list[str]:
    """What of the name may be asked for: all of it, each group, each with wild cards, each in its place."""
    first = [group.split("^")[0] for group in script.groups]
    return [
        script.name,
        *script.groups,
        *(f"{family[:1]}*" for family in first),
        *("=" * number + f"*{family[1:]}^*" for number, family in enumerate(first)),
    ]


@pytest.mark.parametrize("key", BY_KEY)
def test_each_group_of_a_name_is_matched_in_its_own_set_in_utf8_and_in_another_case(node, stored, key):
    script = BY_KEY[key]
    own = [(script.terms, script.written(part)) for part in (script.name, *script.groups)]
    utf8 = [((UTF8,), case(part).encode()) for part in patterns(script) for case in (str, str.swapcase)]
    with finder(node) as find:
        for terms, part in own + utf8:
            matches = find("PATIENT", terms, PatientID=patient_id(script), PatientName=part)
            assert [raw(match, "PatientID") for match in matches] == [patient_id(script)], (terms, part)
        for absent in (f"{script.groups[0]}x", f"=={script.groups[0]}", script.groups[2].replace("^", "")):
            assert find("PATIENT", (UTF8,), PatientID=patient_id(script), PatientName=absent.encode()) == []


LATIN1_TOO = {"_IR100", "2022IR6+2022IR100"}


@pytest.mark.parametrize("key", BY_KEY)
def test_answers_come_in_the_askers_set_else_as_stored_else_in_utf8(node, stored, key):
    script = BY_KEY[key]
    keys = {"PatientID": patient_id(script), "PatientName": b"", "PatientComments": b""}
    with finder(node) as find:
        for terms in (script.terms, ()):
            (match,) = find("PATIENT", terms, **keys)
            assert declared(match) == script.terms
            assert script.standard in {b"", raw(match, "PatientName")}
            assert script.read(raw(match, "PatientName")) == script.name
            assert script.read(raw(match, "PatientComments")) == script.comments
        (match,) = find("PATIENT", (UTF8,), **keys)
        assert declared(match) == (UTF8,)
        assert (raw(match, "PatientName"), raw(match, "PatientComments")) == (
            script.name.encode(),
            script.comments.encode(),
        )
        (match,) = find("PATIENT", ("ISO_IR 100",), **keys)
        assert declared(match) == (("ISO_IR 100",) if key in LATIN1_TOO else script.terms)


@pytest.mark.parametrize("key", BY_KEY)
def test_other_text_is_matched_and_returned_also_in_sequences(node, stored, key):
    script = BY_KEY[key]
    keys = {"PatientID": patient_id(script)}
    text = script.text.encode()
    with finder(node, STUDY) as find:
        (study,) = find("STUDY", (UTF8,), StudyDescription=text, AccessionNumber=b"", **keys)
        assert raw(study, "AccessionNumber") == script.text[:8].strip().encode()
        wild = (script.text[:2] + "*").encode()
        (series,) = find(
            "SERIES", (UTF8,), RequestAttributesSequence=step(wild),
            InstitutionName=("?" + script.text[1:]).encode(), **keys,
        )  # fmt: skip
        assert raw(series.RequestAttributesSequence[0], "ScheduledProcedureStepDescription") == text
        own = script.written(script.text)
        (series,) = find("SERIES", script.terms, RequestAttributesSequence=step(own), InstitutionName=own, **keys)
        assert script.read(raw(series, "InstitutionName")) == script.text
        inner = raw(series.RequestAttributesSequence[0], "ScheduledProcedureStepDescription")
        assert script.read(inner) == script.text


# Latin-9 is newer than DCMTK 3.6.7; and JIS X 0208 and 0212 it leaves to an iconv that Debian's C library has not got.
NOT_CONVERTED = ("203", "87", "159")


@pytest.mark.dcmtk
@pytest.mark.parametrize("key", BY_KEY)
def test_dcmtk_asks_in_each_set_and_reads_the_answer(node, stored, dcmtk, tmp_path, key):
    script = BY_KEY[key]
    command = [dcmtk / "findscu", "-P", "-X", "-od", tmp_path, "-aec", "DICOMNODE", "127.0.0.1", node.port]
    terms = "\\".join(script.terms)
    keys = [f"SpecificCharacterSet={terms}", "QueryRetrieveLevel=PATIENT", f"PatientID={patient_id(script).decode()}"]
    asked = [part for each in (*keys, "PatientName", "PatientComments") for part in ("-k", each)]
    subprocess.run([str(part) for part in [*command, *asked]], check=True, capture_output=True)
    (answer,) = tmp_path.glob("rsp*")
    if key.endswith(NOT_CONVERTED):
        with quiet_pydicom():
            assert str(dcmread(answer, force=True).PatientName) == script.name  # by pydicom
        return
    dump = [str(dcmtk / "dcmdump"), "+U8", "+L", "+P", "PatientName", "+P", "PatientComments", str(answer)]
    shown = subprocess.run(dump, check=True, capture_output=True).stdout.decode()
    assert f"[{script.name}]" in shown
    assert script.text in shown


WRONG = {  # what is declared, the bytes of the name, what it says
    "undeclared UTF-8": (b"", "Grüß^Gott".encode(), "Grüß^Gott"),
    "undeclared Latin-1": (b"", "Grüß^Gott".encode("latin-1"), "Grüß^Gott"),
    "UTF-8 as second value": (b"\\ISO_IR 192", "Grüß^山田".encode(), "Grüß^山田"),
    "code extensions after UTF-8": (b"ISO_IR 192\\ISO 2022 IR 87", "山田^太郎".encode(), "山田^太郎"),
    "misspelt": (b"iso ir 144", "Чехов^А".encode("iso8859-5"), "Чехов^А"),
    "unknown": (b"KLINGON", "Grüß^Gott".encode(), "Grüß^Gott"),
    "escapes without declaration": (b"", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "山田^太郎"),
    "Korean without escapes": (b"\\ISO 2022 IR 149", "홍^길동".encode("euc_kr"), "홍^길동"),
    "Korean with one escape": (b"\\ISO 2022 IR 149", b"\x1b$)C" + "홍^길동".encode("euc_kr"), "홍^길동"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_and_missing_declarations_are_read_as_meant(node, tmp_path, wrong):
    terms, encoded, name = WRONG[wrong]
    number = list(WRONG).index(wrong)
    facts = FilmFacts(f"WRONG{number}", "", "O", "", "20240101", seed=f"wrong charset {number}")
    dataset = dx_dataset(np.full((32, 32), 100, np.uint16), facts)
    with quiet_pydicom():
        put(dataset, SpecificCharacterSet=terms, PatientName=encoded)
        dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
        assert all(sent.ok for sent in client.send(node.peer, [tmp_path / "film.dcm"]))
    with finder(node) as find:
        asked = f"{name[:1].swapcase()}*"
        (match,) = find("PATIENT", (UTF8,), PatientID=f"WRONG{number}".encode(), PatientName=asked.encode())
    assert raw(match, "PatientName") == name.encode()


def test_an_item_may_have_a_character_set_of_its_own(node, tmp_path):
    """PS3.5 7.5.3: it holds in the item, and the data set's goes on behind it."""
    dataset = dx_dataset(np.full((32, 32), 100, np.uint16), FilmFacts("ITEM", "", "O", "", "20240101", seed="item"))
    inner = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 144" + step("Грудь".encode("iso8859-5"))[8:]
    item = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    put(
        dataset, SpecificCharacterSet=b"ISO_IR 126", PatientName="Ψ^Ω".encode("iso8859-7"),
        InstitutionName="Θώρακας".encode("iso8859-7"), RequestAttributesSequence=item,
    )  # fmt: skip
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [tmp_path / "film.dcm"]))
    with finder(node, STUDY) as find:
        (match,) = find(
            "SERIES", (UTF8,), PatientID=b"ITEM", InstitutionName="Θ*".encode(),
            RequestAttributesSequence=step("Гр*".encode()),
        )  # fmt: skip
        assert find("SERIES", (UTF8,), PatientID=b"ITEM", RequestAttributesSequence=step("Θ*".encode())) == []
    found = raw(match.RequestAttributesSequence[0], "ScheduledProcedureStepDescription")
    assert (declared(match), found.decode()) == ((UTF8,), "Грудь")
