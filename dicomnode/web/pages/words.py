"""Values as DICOM writes them in, the same as a person writes them out: names, dates, sexes, ages, warnings, sizes."""

import datetime
from typing import Final

from pydicom.uid import UID

from dicomnode.query.search import ANATOMY_UNSURE, RANKED_LOCALLY, ROI_IGNORED, SITE_IGNORED, UNLIKE_ARCHIVE
from encoder.anatomy import VOCABULARY

NOT_SAID: Final = "–"
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SEXES: Final = {"F": "female", "M": "male", "O": "other"}  # PS3.3 C.7.1.1
NOTICES: Final = {
    UNLIKE_ARCHIVE: "This region is unlike anything in the archive: treat these hits with care.",
    ANATOMY_UNSURE: "The anatomy of this rectangle is not certain: the likely ones were searched. Choose one in the "
    "filters to be exact.",
    SITE_IGNORED: "The finding site is not in the vocabulary and was ignored.",
    ROI_IGNORED: "A region that lies on no stored image was ignored.",
    RANKED_LOCALLY: "The region asked about is small: scores are of the place inside each region that looks most like "
    "it, and boxes show that place.",
}
_DAYS_A_YEAR: Final = 365.25
_STEPS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def person(name: str | None) -> str:
    """`Doe^John^^Dr.` as `Doe, John (Dr.)`; other alphabets behind it. PS3.5 6.2.1."""
    groups = [shown for group in (name or "").split("=") if (shown := _group(group))]
    return " · ".join(dict.fromkeys(groups)) or NOT_SAID


def _group(group: str) -> str:
    family, given, middle, prefix, suffix = ([part.strip() for part in group.split("^")] + [""] * 5)[:5]
    first = " ".join(part for part in (given, middle) if part)
    name = ", ".join(part for part in (family, first) if part)
    title = ", ".join(part for part in (prefix, suffix) if part)
    return f"{name} ({title})" if title else name


def day(date: str | None) -> str:
    """`20210312` as `12 Mar 2021`; what is no date as it is written. PS3.5 6.2, DA."""
    found = _date(date)
    return f"{found.day} {_MONTHS[found.month - 1]} {found.year}" if found else (date or NOT_SAID)


def time_of_day(time: str | None) -> str:
    """`103000.5` as `10:30`; nothing where it says nothing. PS3.5 6.2, TM."""
    digits = (time or "")[:4]
    return f"{digits[:2]}:{digits[2:]}" if len(digits) == 4 and digits.isdecimal() else ""


def _date(date: str | None) -> datetime.date | None:
    text = (date or "").strip()
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date() if len(text) == 8 else None
    except ValueError:
        return None


def sex(code: str | None) -> str:
    """Patient's Sex as a word; nothing where it is not said."""
    return SEXES.get((code or "").strip(), (code or "").strip())


def age(birth: str | None, at: str | None) -> str:
    """Whole years between two dates, such as `61 y`; nothing when one is missing or they contradict."""
    born, then = _date(birth), _date(at)
    if born is None or then is None or then < born:
        return ""
    return f"{int((then - born).days / _DAYS_A_YEAR + 1e-3)} y"


def sex_and_age(sex_code: str | None, birth: str | None, at: str | None) -> str:
    """Such as `female · 61 y`, as far as it is known."""
    return " · ".join(part for part in (sex(sex_code), age(birth, at)) if part)


def patient_facts(sex_code: str | None, birth: str | None, at: str | None) -> str:
    """What is known of a patient beside the name, on one line."""
    known = (sex_and_age(sex_code, birth, at), f"born {day(birth)}" if birth else "")
    return " · ".join(part for part in known if part)


def kind(sop_class_uid: str) -> str:
    """What an object is, such as `Comprehensive SR`."""
    return str(UID(sop_class_uid).name).removesuffix(" Storage")


def anatomy(index: int) -> str:
    """A region's name, beginning with a capital."""
    return capital(VOCABULARY[index].name)


def capital(name: str) -> str:
    """The same beginning with a capital; `SVC` stays as it is."""
    return name[:1].upper() + name[1:]


def room(size: int) -> str:
    """Bytes as a person reads them."""
    for unit, step in _STEPS:
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as day and time of the node's own zone."""
    if not seconds:
        return NOT_SAID
    at = datetime.datetime.fromtimestamp(seconds).astimezone()
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M:%S}"
