"""The report in headless Chromium: it renders, its filters work, and no request leaves the page."""

import shutil
from dataclasses import replace

import pytest
import yaml

from camtrain.cli import main
from camtrain.reliance.history import Judgement, read_judgements
from camtrain.report import write_report
from camtrain.sinks import FAILURES, FilesSink, Panels

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install camtrain[browser]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def report(tmp_path, make_pass, make_panel):
    sink = FilesSink(tmp_path)
    for epoch in range(2):
        sink.write(*make_pass(epoch, epoch))
    wrong = [replace(make_panel(f"w{index}"), reason="confidently wrong") for index in range(3)]
    lucky = [replace(make_panel("l0", 1, 1), reason="right for the wrong reason")]
    sink.write(Panels(FAILURES, (*wrong, *lucky), 1, 2))
    return write_report(tmp_path)


@pytest.fixture
def opened(browser, report):
    """`opened(width=..., color_scheme=...)`: the page, with `.requests` and `.errors`."""

    def open_page(**options):
        width = options.pop("width", 1200)
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(report.as_uri())
        return page

    return open_page


def visible(page):
    return page.locator(".case:visible").evaluate_all("all => all.map(one => one.querySelector('.id').textContent)")


def test_report__sends_no_request_and_raises_no_error(opened, report):
    page = opened()
    page.locator("#configuration").scroll_into_view_if_needed()
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.errors == []
    broken = page.locator("img").evaluate_all("all => all.filter(one => !one.naturalWidth).length")
    assert broken == 0


def test_report__filters_its_failure_cases(opened):
    page = opened()
    assert visible(page) == ["w0", "w1", "w2", "l0"]
    page.select_option("[data-filter=kind]", "right, heat off the object")
    assert visible(page) == ["l0"]
    assert page.text_content("#shown") == "1 of 4"
    page.click("#reset")
    page.select_option("[data-filter=class]", "boat")
    assert visible(page) == ["w0", "w1", "w2"]


def test_report__opens_the_pictures_behind_a_confusion(opened):
    page = opened()
    page.click(".matrix button[data-true=boat][data-said=car]")
    assert visible(page) == ["w0", "w1", "w2"]
    assert "boat taken for car" in page.text_content("#reset")
    assert page.locator(".matrix button[data-true=boat][data-said=boat]").is_disabled()  # no picture of these
    page.click("#reset")
    assert len(visible(page)) == 4


@pytest.fixture
def audit(browser, tmp_path, write_audit):
    write_audit(tmp_path)
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(write_report(tmp_path).as_uri())
    yield page
    assert page.errors == []
    page.close()


def tiles(page):
    return page.locator("#gallery .file").all_text_contents()


def test_gallery__orders_filters_and_turns_pages(audit):
    assert tiles(audit)[:3] == ["000.jpg", "005.jpg", "010.jpg"]  # wrong, the surest first
    assert len(tiles(audit)) == 60
    audit.select_option("[name=order]", "unsure")
    assert tiles(audit)[:2] == ["129.jpg", "128.jpg"]
    audit.select_option("[name=order]", "off")
    assert tiles(audit)[:2] == ["000.jpg", "001.jpg"]
    audit.click("[data-step='1']")
    audit.click("[data-step='1']")
    assert tiles(audit) == [f"{index:03d}.jpg" for index in range(120, 130)]
    assert audit.text_content(".pages output") == "121 to 130 of 130"
    audit.select_option("[name=answer]", "wrong")
    assert len(tiles(audit)) == 26
    audit.fill("[name=text]", "cats/01")
    assert tiles(audit) == ["010.jpg", "015.jpg"]
    audit.click("#gallery form button")
    assert len(tiles(audit)) == 60


def test_gallery__shows_the_images_behind_a_class_and_a_confusion(audit):
    audit.click("#answers [data-class=cat]")
    assert audit.text_content(".pages output") == "1 to 60 of 130"
    audit.click("#answers .matrix button[data-said=dog]")
    assert audit.text_content(".pages output") == "1 to 26 of 26"


def test_audit__puts_accuracy_calibration_and_classes_on_the_first_screen(audit):
    for part in (".figures", "#reliability", "#classes"):
        box = audit.locator(f"#answers {part}").bounding_box()
        assert box["y"] + min(box["height"], 200) < 800
    assert audit.locator("#confusion").bounding_box()["y"] < 800


def test_report__takes_a_persons_judgement_and_apply_reads_it(opened, tmp_path):
    page = opened()
    assert not page.is_visible("#judgement")
    page.click(".verdict .judge [data-judgement=spurious]")
    assert page.locator(".places .judge [data-judgement=spurious]").first.get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.click("#judgement [data-do=save]")
    download.value.save_as(tmp_path / "judgement.json")
    assert read_judgements(tmp_path / "judgement.json") == (Judgement("boat", "background", "spurious"),)
    main(["apply", str(tmp_path / "judgement.json"), "--out", str(tmp_path / "c.yaml")])
    (detector, remedy) = yaml.safe_load((tmp_path / "c.yaml").read_text())["trainer"]["callbacks+"]
    assert detector["init_args"] == {"judgement": str(tmp_path / "judgement.json")}
    assert remedy["class_path"] == "camtrain.callbacks.AttentionAlignment"
    page.click(".places .judge [data-judgement=spurious] >> nth=0")  # a second click takes it back
    assert not page.is_visible("#judgement")
    assert page.errors == []


def test_report__fits_a_phone(opened):
    page = opened(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_report__follows_light_and_dark(opened):
    colors = [
        opened(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colors == ["rgb(253, 253, 253)", "rgb(15, 18, 22)"]
