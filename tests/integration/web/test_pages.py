"""The page over HTTP: what each page says, what it never says, who may see it, and what paths and forms do not do."""

import re
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydicom.uid import generate_uid

from dicomnode import config as configuration
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.errors import ConfigError
from dicomnode.web.pages import words
from dicomnode.web.pages.sessions import IDLE_S, MOST, Sessions
from storage.store import Store
from tests import nodes
from tests.integration import archives, asking
from tests.integration.web.conftest import path_of

HEART = asking.HEART_BOX
SCRIPT = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(2)>&amp;"
TOKENS = {name: f"{name.lower()}-token-0123456789" for name in ("CHIEF", "READER", "SEEKER")}
CONFIG = f"""
[web]
administrators = ["CHIEF"]
ohif_url = "https://ohif.example/viewer?StudyInstanceUIDs={{study}}"
weasis_url = "weasis://?$dicom:rs --url {{dicomweb}} -r studyUID={{study}}"
[peers.CHIEF]
ae_title = "CHIEF"
token = "{TOKENS["CHIEF"]}"
[peers.READER]
ae_title = "READER"
token = "{TOKENS["READER"]}"
[peers.SEEKER]
ae_title = "SEEKER"
token = "{TOKENS["SEEKER"]}"
services = ["find"]
[peers.LISTENER]
ae_title = "LISTENER"
"""


class Links(HTMLParser):
    """What a page points at, and what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            self.attributes.append(name)
            if name in {"href", "src", "action"}:
                self.urls.append(value)


def links(answer: httpx.Response) -> Links:
    found = Links()
    found.feed(answer.text)
    return found


def starting(answer: httpx.Response, start: str) -> list[str]:
    return [url for url in links(answer).urls if url.startswith(start)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive that can be asked, a film without regions of a patient with a hostile name beside the others."""
    folder = tmp_path_factory.mktemp("pages")
    films = [asking.film(number) for number in range(11)] + [asking.film(11, "PID-0010-X")]
    asking.indexed(folder / "root", folder, films)
    with Store.open(folder / "root") as store:
        live = store.generations.live()
        store.generations.set_thresholds(live.id, {str(anatomy): 0.5 for anatomy in asking.BOXES})
    with nodes.running_node(folder / "root", "--workers", "0", "--http-port", "0") as node:
        hostile = dx_dataset(
            asking.film(99).pixel_array,
            FilmFacts("X<b>", SCRIPT, "F", "19600229", "20230704", accession_number='A"1', seed="hostile"),
        )
        hostile.StudyDescription = hostile.SeriesDescription = QUOTED
        hostile.save_as(folder / "hostile.dcm", enforce_file_format=True)
        assert all(sent.ok for sent in client.send(node.peer, [folder / "hostile.dcm"]))
        yield node, films, hostile


@pytest.fixture
def page(archive):
    node, *_ = archive
    with httpx.Client(base_url=node.url, timeout=60) as made:
        yield made


def hits_of(film, **more) -> str:
    corners = {"x1": HEART.x1, "y1": HEART.y1, "x2": HEART.x2, "y2": HEART.y2}
    return str(httpx.URL("/hits", params={"image": str(film.SOPInstanceUID), **corners, **more}))


def every_page(films, hostile) -> list[str]:
    return [
        "/",
        f"/?name={SCRIPT}&patient={QUOTED}",
        f"/study/{hostile.StudyInstanceUID}",
        f"/image/{hostile.SOPInstanceUID}",
        f"/image/{films[0].SOPInstanceUID}",
        hits_of(films[0], scope="ANY"),
        hits_of(films[0], modality=QUOTED[:6]),
        "/admin",
        "/login",
        "/study/1.2.3",
        "/image/not-a-uid",
    ]


def test_pages_hold_nothing_that_runs_and_nothing_from_outside(page, archive):
    _, films, hostile = archive
    for path in every_page(films, hostile):
        answer = page.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8", path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get_list("referrer-policy") == ["same-origin"]
        found = links(answer)
        assert found.tags.count("script") == 1
        assert not {"iframe", "object", "b"} & set(found.tags)
        assert not [name for name in found.attributes if name.startswith("on") or name == "style"]
        assert not [url for url in found.urls if urlsplit(url).netloc or urlsplit(url).scheme], path
        assert SCRIPT not in answer.text
        assert QUOTED not in answer.text
        assert '<html lang="en">' in answer.text
        assert "Not for diagnosis" in answer.text
        assert 'href="#main"' in answer.text


def test_studies_are_listed_newest_first_as_a_person_writes_them(page, archive):
    _, _, hostile = archive
    answer = page.get("/")
    assert answer.status_code == 200
    assert "Forget-Me-Not3, Zoë" in answer.text
    assert "6 May 2024" in answer.text
    studies = starting(answer, "/study/")
    assert len(studies) == 13
    assert studies[-1] == f"/study/{hostile.StudyInstanceUID}"
    assert "4 Jul 2023" in answer.text
    assert "female · 63 y · born 29 Feb 1960" in answer.text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("name=zoë", 11),
        ("name=forget-me-not3, Zo", 1),
        ("name=Änne", 1),
        ("name=FORGET*^ZO*", 11),
        ("patient=PID-001", 2),
        ("patient=PID-000?-X", 10),
        ("since=2024-01-01", 12),
        ("until=2023-12-31", 1),
        ("since=2023-07-04&until=2023-07-04", 1),
        ("modality=dx", 13),
        ("modality=CT", 0),
        ("modality=DX&name=nobody", 0),
        ("page=2", 0),
    ],
)
def test_the_search_matches_as_qido_does(page, query, count):
    answer = page.get("/?" + query)
    assert answer.status_code == 200
    assert len(starting(answer, "/study/")) == count
    assert ("No study matches" in answer.text) == (count == 0)


@pytest.mark.parametrize("query", ["since=yesterday", "page=0", "page=x", "name=" + "*a" * 30])
def test_a_search_that_means_nothing_is_said_beside_the_form(page, query):
    answer = page.get("/?" + query)
    assert answer.status_code == 200
    assert 'class="notice grave"' in answer.text
    assert not starting(answer, "/study/")


def test_from_the_list_to_more_like_this_by_links_alone(page, archive):
    _, films, _ = archive
    study = page.get(starting(page.get("/?patient=PID-0000"), "/study/")[0])
    assert study.status_code == 200
    thumbnail = page.get(starting(study, "/pictures/")[0])
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/jpeg")
    image = page.get(starting(study, "/image/")[0])
    assert image.status_code == 200
    assert page.get(starting(image, "/pictures/")[0]).status_code == 200
    assert "Cardiac silhouette" in image.text
    heart = next(url for url in starting(image, "/hits?") if "cardiac" in url)
    hits = page.get(heart)
    assert hits.status_code == 200
    assert hits.text.count("<figure>") == 10
    assert page.get(starting(hits, "/pictures/")[1]).status_code == 200
    more = [url for url in starting(hits, "/hits?") if "cardiac" in url]
    asked = parse_qs(urlsplit(more[0]).query)
    assert asked["image"] != [str(films[0].SOPInstanceUID)]
    again = page.get(more[0])
    assert again.status_code == 200
    assert again.text.count("<figure>") == 10
    back = starting(again, f"/image/{asked['image'][0]}")
    assert page.get(back[0]).text.count('class="marked"') == 1


def test_hits_are_those_of_post_similar(page, archive):
    node, films, _ = archive
    question = {"image": str(films[0].SOPInstanceUID), "box": list(HEART), "k": 10}
    told = httpx.post(node.url + "/similar", json=question, timeout=60).json()["hits"]
    shown = page.get(hits_of(films[0])).text
    assert re.findall(r"score </span>(-?[0-9.]+)", shown) == [f"{hit['score']:.3f}" for hit in told]
    assert all(f"/image/{hit['sop_instance_uid']}?" in shown for hit in told)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"scope": "ANY", "k": "50"}, 12),
        ({"scope": "SAME"}, 1),
        ({"k": "20"}, 11),
        ({"sex": "M"}, 0),
        ({"sex": "F", "modality": "dx"}, 10),
        ({"modality": "CT"}, 0),
        ({"since": "2024-05-07"}, 0),
        ({"until": "2024-05-06"}, 10),
        ({"score": "1"}, 0),
        ({"anatomy": "right lung"}, 10),
        ({"anatomy": "Carina"}, 0),
        ({"scope": "", "sex": "", "score": "", "anatomy": "", "since": ""}, 10),
    ],
)
def test_filters_narrow_the_hits_and_stay_in_the_form(page, archive, filters, count):
    _, films, _ = archive
    answer = page.get(hits_of(films[0], **filters))
    assert answer.status_code == 200
    assert answer.text.count("<figure>") == count
    assert ("No region passes" in answer.text) == (count == 0)
    if filters.get("modality"):
        assert f'value="{filters["modality"]}"' in answer.text


def test_hits_of_one_study_are_one_group(page, archive):
    _, films, _ = archive
    answer = page.get(hits_of(films[0], anatomy="", k="20", scope="ANY"))
    assert answer.text.count('class="group"') == len({film.StudyInstanceUID for film in films})


def test_a_question_unlike_the_archive_is_told(page, archive):
    _, films, _ = archive
    answer = page.get(hits_of(films[0], anatomy="right lung"))  # a heart's vector among lungs
    assert words.NOTICES["UNLIKE ARCHIVE"] in answer.text
    assert words.NOTICES["UNLIKE ARCHIVE"] not in page.get(hits_of(films[0])).text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"x1": "nan"}, 400),
        ({"x2": "0"}, 400),
        ({"y2": ""}, 400),
        ({"x1": "5000", "x2": "6000"}, 400),
        ({"image": "../../etc/passwd"}, 400),
        ({"image": "1.2.3"}, 404),
        ({"k": "0"}, 400),
        ({"k": "1e3"}, 400),
        ({"scope": "MINE"}, 400),
        ({"anatomy": "tail"}, 400),
        ({"score": "7"}, 400),
    ],
)
def test_questions_that_mean_nothing_are_refused_in_words(page, archive, change, status):
    _, films, _ = archive
    answer = page.get(hits_of(films[0], **change))
    assert answer.status_code == status
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/study/..%2f..%2fetc",
        "/image/%2e%2e%2f",
        "/image/1.2.3/../../x",
        "/static/..%2froutes.py",
        "/static/../routes.py",
        "/static/base.html",
        "/pictures/studies/../series/1/instances/1/rendered",
        "/pictures/studies/1.2.3/series/1.2.4/instances/1.2.5/rendered",
        "/study/1.2.3",
        "/image/1.2.3",
        "/study/" + "1." * 300,
    ],
)
def test_path_tricks_lead_nowhere(page, archive, path):
    node, *_ = archive
    url = httpx.URL(node.url).copy_with(raw_path=path.encode())
    answer = page.send(httpx.Request("GET", url))
    assert answer.status_code in {400, 404}
    assert "import" not in answer.text


def test_an_sr_is_listed_and_is_no_image(page, archive, tmp_path):
    from tests.integration.web.reports import report

    node, films, _ = archive
    document = report(films[1], HEART)
    document.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [tmp_path / "sr.dcm"]))
    assert "SR</span>" in page.get(f"/study/{document.StudyInstanceUID}").text
    assert page.get(f"/image/{document.SOPInstanceUID}").status_code == 406


def test_without_an_index_the_hits_page_says_so(http, films):
    corners = {"x1": 1, "y1": 1, "x2": 30, "y2": 30}
    answer = http.get("/hits", params={"image": str(films.plain.SOPInstanceUID), **corners})
    assert answer.status_code == 200
    assert "No index yet" in answer.text
    assert "not indexed" in http.get(f"/image/{films.plain.SOPInstanceUID}").text


def test_names_of_several_alphabets_are_shown(http):
    answer = http.get("/")
    assert "Grüber, Änne" in answer.text
    assert "山田, 太郎" in answer.text


def test_the_rendered_film_is_as_dicomweb_renders_it(http, films):
    ours = http.get(path_of(films.j2k).replace("/dicom-web", "/pictures") + "/rendered?viewport=64,64")
    assert ours.content == http.get(path_of(films.j2k) + "/rendered?viewport=64,64").content


# --- logging in -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded-pages")
    films = [asking.film(number) for number in range(2)]
    asking.indexed(folder / "root", folder, films)
    with Store.open(folder / "root") as store:
        failing = archives.put(store, asking.film(7), folder)
        (job,) = store.jobs.claim("worker", 60, 10)
        assert job.sop_instance_uid == failing
        store.jobs.fail(job, "worker died <b>", retry=False)
    (folder / "node.toml").write_text(CONFIG)
    with nodes.running_node(
        folder / "root", "--workers", "0", "--http-port", "0", "--config", str(folder / "node.toml")
    ) as node:
        yield node, films


@pytest.fixture
def browser(guarded):
    with httpx.Client(base_url=guarded[0].url, timeout=60) as made:
        yield made


def login(browser, token: str, onward: str = "/", **headers: str) -> httpx.Response:
    return browser.post("/login", data={"token": token, "next": onward}, headers=headers)


@pytest.mark.parametrize("path", ["/", "/study/1.2.3?page=2", "/image/1.2.3", "/hits?x1=1", "/admin"])
def test_who_is_not_logged_in_is_sent_to_the_form_and_back(browser, path):
    answer = browser.get(path)
    assert answer.status_code == 303
    form = browser.get(answer.headers["location"])
    assert form.status_code == 200
    assert f'name="next" value="{path}"' in form.text.replace("&amp;", "&")
    assert login(browser, TOKENS["CHIEF"], path).headers["location"] == path


def test_the_cookie_is_for_this_site_alone_and_is_not_the_token(browser):
    answer = login(browser, TOKENS["READER"])
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKENS["READER"] not in cookie
    page = browser.get("/")
    assert page.status_code == 200
    assert "Log out READER" in page.text
    assert "/admin" not in links(page).urls
    assert browser.get(starting(browser.get(starting(page, "/study/")[0]), "/pictures/")[0]).status_code == 200


def test_the_cookie_opens_the_page_and_no_other_port_of_call(browser):
    login(browser, TOKENS["CHIEF"])
    assert browser.get("/").status_code == 200
    assert browser.get("/dicom-web/studies").status_code == 401
    assert browser.post("/similar", json={}).status_code == 401


def test_a_bearer_token_opens_the_page_too(browser):
    assert browser.get("/", headers={"Authorization": f"Bearer {TOKENS['READER']}"}).status_code == 200


def test_logging_out_ends_the_session(browser):
    login(browser, TOKENS["READER"])
    kept = dict(browser.cookies)
    assert browser.post("/logout").headers["location"] == "/login"
    assert httpx.get(browser.base_url, cookies=kept).status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", "x" * 9000, "ü"])
def test_a_wrong_token_is_refused(browser, token):
    answer = login(browser, token)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize("onward", ["//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/a\r\nX: y"])
def test_no_login_leads_to_another_site(browser, onward):
    assert login(browser, TOKENS["READER"], onward).headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout", "/admin/retry"])
def test_forms_of_other_sites_change_nothing(browser, path, headers):
    login(browser, TOKENS["CHIEF"])
    answer = browser.post(path, data={"token": TOKENS["CHIEF"]}, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.text
    assert browser.get("/").status_code == 200


def test_what_a_peer_may_not_ask_for_is_refused(browser, guarded):
    login(browser, TOKENS["SEEKER"])
    _, films = guarded
    assert browser.get("/").status_code == 200
    for path in (f"/image/{films[0].SOPInstanceUID}", hits_of(films[0]), "/admin"):
        answer = browser.get(path)
        assert answer.status_code == 403
        assert "not permitted" in answer.text or "administrators" in answer.text
    assert browser.post("/admin/retry").status_code == 403


def test_studies_open_in_the_viewers_that_are_configured(browser, guarded):
    login(browser, TOKENS["READER"])
    _, films = guarded
    study = str(films[0].StudyInstanceUID)
    found = links(browser.get(f"/study/{study}")).urls
    assert f"https://ohif.example/viewer?StudyInstanceUIDs={study}" in found
    (weasis,) = [url for url in found if url.startswith("weasis:")]
    assert "%2Fdicom-web" in weasis
    assert not [url for url in found if "slicer" in url]


def test_the_administrator_sees_failures_and_tries_again(browser, guarded):
    node, _ = guarded
    login(browser, TOKENS["CHIEF"])
    page = browser.get("/admin")
    assert page.status_code == 200
    assert "worker died &lt;b&gt;" in page.text
    assert "Retry 1 failed" in page.text
    assert 'http-equiv="refresh"' in page.text
    assert 'http-equiv="refresh"' not in browser.get("/admin?refresh=0").text
    assert "<td>live</td>" in page.text
    assert all(f"<td>{peer}</td>" in page.text for peer in TOKENS)
    assert not [token for token in TOKENS.values() if token in page.text]
    answer = browser.post("/admin/retry")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin?retried=1")
    assert "1 queued again" in browser.get(answer.headers["location"]).text
    assert nodes.answered("status", "--root", node.root)["queued"] == 1


def test_the_last_contact_of_a_peer_is_known(browser, guarded):
    node, _ = guarded
    login(browser, TOKENS["CHIEF"])
    assert last_contact(browser, "LISTENER") == words.NOT_SAID
    assert nodes.dicomnode("echo", node.address, "--calling", "LISTENER", check=False).returncode == 0
    assert re.fullmatch(r"\d+ \w{3} \d{4}, [0-9:]{8}", last_contact(browser, "LISTENER"))
    assert re.fullmatch(r"\d+ \w{3} \d{4}, [0-9:]{8}", last_contact(browser, "CHIEF"))


def last_contact(browser, title: str) -> str:
    row = browser.get("/admin").text.partition(f"<td>{title}</td>")[2].partition("</tr>")[0]
    return re.findall(r'<td class="date">(.*?)</td>', row)[0]


def test_neither_tokens_nor_names_are_in_the_log(browser, guarded):
    login(browser, TOKENS["READER"])
    browser.get("/?name=Forget-Me")
    login(browser, "wrong-token-0123456789")
    text = guarded[0].log_text
    assert "unknown token" in text
    assert not [secret for secret in (*TOKENS.values(), "wrong-token", asking.UNFORGETTABLE) if secret in text]


# --- without a node ---------------------------------------------------------------------------------------------


class Asking:
    """What sessions look at of a request."""

    def __init__(self, name: str) -> None:
        self.cookies = {"dicomnode-session": name}


@pytest.mark.parametrize(
    "url",
    ["https://ohif.example/", "javascript:alert({study})", "https://{host}/{study}", "https://x/{study", "{study}"],
)
def test_links_to_viewers_are_checked_when_the_node_starts(url):
    with pytest.raises(ConfigError, match=r"web\.ohif_url"):
        configuration.load(environment={"DICOMNODE_WEB__OHIF_URL": url})


def test_the_page_can_be_switched_off(tmp_path):
    settings = {"DICOMNODE_WEB__PAGE": "false"}
    with nodes.running_node(tmp_path / "root", "--workers", "0", "--http-port", "0", environment=settings) as node:
        assert [httpx.get(node.url + path).status_code for path in ("/", "/admin", "/login")] == [404, 404, 404]
        assert httpx.get(node.url + "/health/live").status_code == 200


def test_sessions_end_by_idling_and_by_number():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first, second = sessions.begin("one"), sessions.begin("two")
    now[0] = IDLE_S
    assert sessions.token(Asking(first)) == "one"
    now[0] = IDLE_S + 1
    assert (sessions.token(Asking(first)), sessions.token(Asking(second))) == ("one", None)
    for number in range(MOST):
        sessions.begin(str(number))
    assert sessions.token(Asking(first)) is None
    assert sessions.token(Asking(generate_uid())) is None


def test_values_are_written_as_a_person_writes_them():
    assert words.person("Doe^John^Q^Dr.^Jr.") == "Doe, John Q (Dr., Jr.)"
    assert words.person("Yamada^Tarou=山田^太郎=やまだ^たろう") == "Yamada, Tarou · 山田, 太郎 · やまだ, たろう"
    assert [words.person(name) for name in (None, "", "^^", "Solo")] == ["–", "–", "–", "Solo"]
    assert [words.day(date) for date in ("20210312", "2021", "20219999", None)] == [
        "12 Mar 2021",
        "2021",
        "20219999",
        "–",
    ]
    assert [words.age("19600229", at) for at in ("20230227", "20230301", "19500101", None)] == ["62 y", "63 y", "", ""]
    assert [words.time_of_day(time) for time in ("103000.5", "9", None)] == ["10:30", "", ""]
    assert [words.room(size) for size in (5, 2048, 3 << 30)] == ["5 B", "2.0 KiB", "3.0 GiB"]
