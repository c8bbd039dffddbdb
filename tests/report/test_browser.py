"""The report in a real browser, opened from disk."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neftune.records import StudyResult
from neftune.report.outputs import outputs_payload
from neftune.report.overview import Overview
from neftune.report.page import write_report
from tests.report.odd_studies import ODD
from tests.synthetic import make_study

pytestmark = pytest.mark.browser

FLAGS = [
    f"--{flag}"
    for flag in (
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
]
SIZES = {"train": 8, "heldout": 12, "test": 20}
PHONE = {"viewport": {"width": 390, "height": 844}}
MEGABYTE = "x" * 1_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        message = "needs Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


class Opened:
    """A report in a page, and everything that went wrong there."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.wrong, self.requests = page, [], []
        page.on(
            "console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def part(self, name: str) -> Any:
        return self.page.locator(f'#outputs [data-part="{name}"]')

    def position(self) -> str:
        return self.part("position").inner_text()

    def until(self, expression: str) -> None:
        """Wait for an expression to become true; the page's own policy forbids Playwright's way."""
        for _ in range(200):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(25)
        pytest.fail(f"never true: {expression}")

    def draw_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('.plot').forEach((plot) => plot.scrollIntoView())")
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Callable[..., Opened]]:
    contexts: list[Any] = []

    def open_(study: StudyResult, **options: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options}))
        return Opened(contexts[-1].new_page(), write_report(study, tmp_path / "report.html"))

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def small() -> StudyResult:
    return make_study(sizes=SIZES)


def _long(study: StudyResult) -> StudyResult:
    """The study with one answer of a megabyte on one line."""
    run = study.planned[0]
    record = study.records[run.run_id]
    first, *rest = record.answers["test"]
    answers = {**record.answers, "test": (replace(first, text=MEGABYTE), *rest)}
    return replace(study, records={**study.records, run.run_id: replace(record, answers=answers)})


STUDIES = {**ODD, "a megabyte on one line": lambda: _long(make_study(hostile=True, sizes=SIZES))}


@pytest.mark.parametrize("name", list(STUDIES))
def test_any_report_opens_without_an_error_and_asks_for_nothing_else(opened, name):
    report = opened(STUDIES[name](), color_scheme="dark" if len(name) % 2 else "light")
    report.draw_all()
    assert report.wrong == []
    assert len(report.requests) == 1
    assert report.page.evaluate("document.documentElement.scrollWidth") <= 1400
    plots = report.page.locator(".plot")
    assert report.page.locator(".plot .main-svg").count() >= plots.count()
    assert report.page.locator("h1").count() == 1
    assert report.page.locator("img:not(.plot img)").count() == 0


@pytest.mark.parametrize("name", ["hostile", "eight arms", "a megabyte on one line"])
def test_a_phone_needs_no_sideways_scrolling(opened, name):
    report = opened(STUDIES[name](), **PHONE)
    report.page.evaluate("document.querySelectorAll('.plot').forEach((plot) => plot.scrollIntoView())")
    assert report.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert report.wrong == []


def test_dark_mode_is_dark_and_keeps_arms_apart(opened, small):
    report = opened(small, color_scheme="dark")
    assert report.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    report.page.locator("#losses .plot").first.scroll_into_view_if_needed()
    report.page.locator("#losses .js-line").first.wait_for(state="attached")
    strokes = report.page.locator("#losses .plot .js-line").evaluate_all("lines => lines.map(l => l.style.stroke)")
    assert "rgb(86, 180, 245)" in strokes
    assert "rgb(0, 114, 178)" not in strokes


def test_switching_to_dark_redraws(opened, small):
    report = opened(small)
    report.page.locator("#losses .plot").first.scroll_into_view_if_needed()
    report.page.locator("#losses .js-line").first.wait_for()
    report.page.emulate_media(color_scheme="dark")
    report.until(
        "[...document.querySelectorAll('#losses .js-line')].some((l) => l.style.stroke === 'rgb(86, 180, 245)')"
    )


def test_printing_opens_what_is_folded_and_leaves_no_controls(opened, small):
    report = opened(small)
    assert len(report.page.pdf()) > 20_000
    report.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert report.page.locator("details:not([open])").count() == 0
    report.page.emulate_media(media="print")
    assert not report.page.locator("nav.sections").is_visible()
    assert not report.part("search").is_visible()
    report.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert report.page.locator("details:not([open])").count() > 0
    assert report.wrong == []


def test_every_figure_that_is_scrolled_to_is_drawn(opened, small):
    report = opened(small)
    for plot in report.page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()


def test_search_finds_what_the_texts_hold(opened, small):
    report = opened(small)
    group = outputs_payload(Overview(small))["groups"][0]
    texts = outputs_payload(Overview(small))["texts"]
    runs = [run for run in group["runs"] if run["seed"] == 0]

    def holds(index: int, example: dict[str, Any]) -> bool:
        places = [example["prompt"], example["reference"], *(run["text"][index] for run in runs)]
        found = [texts[place].lower() for place in places] + [value.lower() for value in example["tags"].values()]
        return any("tortoise" in text for text in found)

    expected = sum(holds(index, example) for index, example in enumerate(group["examples"]))
    assert 0 < expected < 20
    report.part("search").fill("Tortoise")
    report.until("document.querySelectorAll('#outputs .found button').length < 20")
    assert report.position() == f"1 of {expected} found among 20"
    assert report.page.locator("#outputs mark").first.inner_text().lower() == "tortoise"
    report.part("search").press("Escape")
    report.until("document.querySelectorAll('#outputs .found button').length === 20")
    assert report.part("search").input_value() == ""


def test_nothing_found_is_said(opened, small):
    report = opened(small)
    report.part("search").fill("no such words")
    report.until("document.querySelectorAll('#outputs .found button').length === 0")
    assert report.position() == "nothing found among 20"
    assert report.part("next").is_disabled()
    report.page.keyboard.press("Escape")
    assert report.wrong == []


def test_filters_by_tag_and_by_who_wins(opened, small):
    report = opened(small)
    group = outputs_payload(Overview(small))["groups"][0]
    run = next(run for run in group["runs"] if run["arm"] == 3 and run["seed"] == 0)
    is_open = [example["tags"]["half"] == "open" for example in group["examples"]]
    wins = sum(letter == "w" for letter in run["wins"])
    both = sum(letter == "w" and open_ for letter, open_ in zip(run["wins"], is_open, strict=True))
    report.part("arm").select_option("3")
    report.part("outcome").select_option("w")
    assert report.position() == f"1 of {wins} found among 20"
    report.part("tag").select_option(label="half: open")
    assert report.position() == f"1 of {both} found among 20"
    report.part("outcome").select_option("")
    assert report.position().endswith(f"of {sum(is_open)} found among 20")


def test_choosing_a_block_part_and_seed_shows_their_answers(opened, small):
    report = opened(small)
    report.part("block").select_option("world=1")
    report.part("part").select_option("heldout")
    report.part("seed").select_option("2")
    run = next(r for r in small.planned if (r.arm, r.block, r.seed) == ("nsr=1.0", "world=1", 2))
    answer = small.records[run.run_id].answers["heldout"][0]
    card = report.page.locator("#outputs .answer", has=report.page.get_by_text("nsr=1.0", exact=True))
    assert card.locator(".text").inner_text().strip() == (answer.text.strip() or "(empty)")
    assert report.page.locator("#outputs .answer").count() == 6


def test_controls_that_have_nothing_to_choose_are_not_shown(opened):
    report = opened(ODD["no answers to compare"]())
    assert report.part("search").is_visible()
    for name in ("block", "seed", "arm", "outcome"):
        assert not report.part(name).is_visible(), name


def test_keys_step_and_search_but_not_while_typing(opened, small):
    report = opened(small)
    report.page.locator("#outputs").scroll_into_view_if_needed()
    report.part("position").scroll_into_view_if_needed()
    report.page.wait_for_timeout(100)
    for key, where in (("j", 2), ("ArrowRight", 3), ("k", 2), ("ArrowLeft", 1), ("ArrowLeft", 1)):
        report.page.keyboard.press(key)
        assert report.position() == f"{where} of 20"
    report.page.keyboard.press("/")
    report.page.keyboard.type("jj")
    assert report.part("search").input_value() == "jj"
    report.page.keyboard.press("Escape")
    report.until("document.querySelectorAll('#outputs .found button').length === 20")
    report.part("next").click()
    assert report.position() == "2 of 20"
    report.page.locator("#outputs .found button").nth(6).click()
    assert report.position() == "7 of 20"
    assert report.page.locator('#outputs .found [aria-current="true"]').count() == 1


def test_keys_do_nothing_where_the_browser_is_out_of_sight(opened, small):
    report = opened(small)
    report.page.wait_for_timeout(100)
    report.page.keyboard.press("j")
    assert report.position() == "1 of 20"


def test_a_hostile_answer_is_shown_as_text(opened):
    study = make_study(hostile=True, seeds=(0,), blocks=("",), sizes=SIZES)
    report = opened(study)
    shown = []
    for _ in range(20):
        shown.append(report.page.locator("#outputs [data-part=detail]").inner_text())
        report.part("next").click(force=True) if report.part("next").is_enabled() else None
    everything = "\n".join(shown)
    for text in ("<script>alert('x')</script>", "</script><img src=x onerror=alert(1)>", "␀", "⟨U+202E⟩"):
        assert text in everything
    assert report.wrong == []
    assert report.page.locator("#outputs script, #outputs img").count() == 0


def test_a_megabyte_is_shown_in_part_and_on_request_in_full(opened, small):
    report = opened(_long(small))
    card = report.page.locator("#outputs .answer .text", has_text="Show all 1,000,000 characters")
    assert len(card.inner_text()) < 25_000
    card.get_by_role("button").click()
    longest = "Math.max(...[...document.querySelectorAll('#outputs .text')].map((e) => e.textContent.length))"
    assert report.page.evaluate(longest) == 1_000_000
    assert report.page.evaluate("document.documentElement.scrollWidth") <= 1400


def test_controls_have_names_and_the_first_stop_skips_to_the_content(opened, small):
    report = opened(small)
    for role in ("searchbox", "combobox", "button"):
        for control in report.page.get_by_role(role).all():
            name = control.evaluate("(e) => (e.labels && e.labels[0] || e).textContent.trim()")
            assert name
    report.page.keyboard.press("Tab")
    assert report.page.evaluate("document.activeElement.className") == "skip"


def test_without_scripts_every_table_is_still_there(opened, small):
    report = opened(small, java_script_enabled=False)
    assert report.page.locator("table").count() > 8
    assert "need JavaScript" in report.page.content()
