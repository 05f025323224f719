"""The pages in a real browser: nothing in the console, nothing beyond the edge, sorting, filtering, the plot."""

from __future__ import annotations

import pytest

from reports.leaderboard.command import leaderboard
from tests.browser import needs_browser
from tests.unit.made_rows import history, rows, write

pytestmark = [pytest.mark.bench, needs_browser]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaderboard")
    made = rows(seeds=4)
    history(folder / made[0].key)
    leaderboard([write(folder, made)], folder / "site", None, "Structured pruning leaderboard", False)
    (folder / "site" / "first").write_text(made[0].key)
    return folder / "site"


@pytest.fixture
def open_page(browser, site):
    """Opens a page of the site and, at the end, asks that its console stayed empty and it asked for nothing."""
    pages, said = [], []

    def open_it(name="index.html", size=DESKTOP, scheme="light"):
        page = browser.new_page(viewport=size, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url))
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url)
        )
        page.goto((site / name).as_uri())
        return page

    yield open_it
    for page in pages:
        page.close()
    assert said == []


def names(page):
    return page.locator("#results tbody tr:visible").evaluate_all("rows => rows.map((row) => row.dataset.label)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["index.html", "published.html", "run"])
def test_nothing_is_beyond_the_edge(open_page, site, tmp_path, name, size, scheme):
    name = f"runs/{(site / 'first').read_text()}.html" if name == "run" else name
    page = open_page(name, size, scheme)
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    # Whatever is wider lies in a part that scrolls by itself.
    beyond = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, pre, .skip, svg")
            && e.getBoundingClientRect().right > window.innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []


def test_the_first_board_is_shown_at_first(open_page):
    page = open_page()
    assert sorted(names(page)) == ["dense", "hesso", "hrank", "l1", "l2", "lamp", "random", "taylor"]
    assert page.locator("#count").inner_text() == "8 of 51 entries shown."


def test_sorting_by_the_head_both_ways(open_page):
    page = open_page()
    figures = "rows => rows.map((row) => Number(row.querySelector('.col-mean').dataset.sort))"
    head = page.locator("th[data-column=mean]")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    shown = page.locator("#results tbody tr:visible").evaluate_all(figures)
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) > 5
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("#results tbody tr:visible").evaluate_all(figures) == sorted(shown)
    page.locator("th[data-column=method] button").click()
    assert names(page) == sorted(names(page))
    page.locator("th[data-column=random] button").click()
    assert names(page)[-3:] == ["dense", "random", "lamp"]  # nothing comes last, as it stood before


def test_filters_narrow_and_ranks_are_those_of_the_class(open_page):
    page = open_page()
    assert page.locator("tr[data-label=l1]:visible .col-possible").inner_text() != "1"
    page.get_by_label("Data need").select_option("D0")
    assert sorted(names(page)) == ["dense", "l1", "l2", "lamp", "random"]
    assert page.locator("tr[data-label=l1]:visible .col-possible").inner_text() == "1"
    page.get_by_label("Method", exact=True).fill("L")
    assert sorted(names(page)) == ["l1", "l2", "lamp"]
    page.get_by_role("button", name="Reset").click()
    assert len(names(page)) == 8
    page.get_by_label("Budget").select_option("macs=0.7")
    assert "not ranked: 1 different of 4" in page.locator("tr[data-label=l1]:visible .col-state").inner_text()
    page.get_by_label("conforming only").check()
    assert "l1" not in names(page)
    page.get_by_label("Model").select_option("")
    page.get_by_label("Budget").select_option("")
    assert len(names(page)) > 40
    assert page.locator("th.col-model").is_visible()


def test_a_choice_that_no_row_fits_is_not_offered(open_page):
    page = open_page()
    page.get_by_label("Division").select_option("open")
    assert names(page) == ["dense", "taylor"]
    assert page.get_by_label("Budget").input_value() == "macs=0.5"
    assert page.locator("select[name=model] option:enabled").count() == 2


def test_the_address_keeps_the_choices(open_page):
    page = open_page()
    page.get_by_label("Model").select_option("timm:resnet18")
    page.get_by_label("Data need").select_option("D1")
    shown = names(page)
    page.reload()
    assert page.get_by_label("Model").input_value() == "timm:resnet18"
    assert names(page) == shown


def test_the_plot_follows_the_axis_the_filter_and_the_keyboard(open_page):
    page = open_page()
    points = page.locator("#plot .point")
    assert points.count() == 20  # seven methods at three budgets, less what is not proved
    points.first.focus()
    tip = page.locator("#plot .tip")
    assert "MACs" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    before = points.first.locator(".mark").get_attribute("d")
    page.get_by_label("latency", exact=True).check()
    assert points.first.locator(".mark").get_attribute("d") != before
    assert "Latency kept" in page.locator("#plot svg").first.text_content()
    page.get_by_label("Data need").select_option("D0")
    assert points.count() == 11
    page.locator("#plot .legend button", has_text="l2").click()
    assert page.locator("#plot .point:not(.faded)").count() == 3
    points.last.hover()
    assert tip.is_visible()


def test_the_theme_follows_the_system_until_it_is_chosen(open_page):
    page = open_page(scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Switch to light colours").click()
    light = page.evaluate(colour)
    assert light != dark
    page.reload()
    assert page.evaluate(colour) == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(colour) == dark


def test_a_phone_shows_cards_that_can_be_sorted(open_page):
    page = open_page(size=PHONE)
    assert page.locator("#results thead").evaluate("head => head.getBoundingClientRect().height") <= 1
    page.get_by_label("Sort by").select_option("mean down")
    figures = "rows => rows.map((row) => Number(row.querySelector('.col-mean').dataset.sort))"
    shown = page.locator("#results tbody tr:visible").evaluate_all(figures)
    assert shown == sorted(shown, reverse=True)


def test_all_boards_are_there_without_scripts(browser, site):
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "index.html").as_uri())
    assert page.locator("#results tbody tr:visible").count() == 51
    assert not page.locator("#filters").is_visible()
    page.close()


def contrast(page, selector):
    """WCAG's ratio of a text's colour to what lies behind it."""
    return page.locator(selector).first.evaluate("""element => {
        const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (rgb) => { const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        let behind = element;
        while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
        const [a, b] = [light(numbers(getComputedStyle(element).color).slice(0, 3)), light(numbers(getComputedStyle(behind).backgroundColor).slice(0, 3))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page, scheme):
    page = open_page(scheme=scheme)
    page.get_by_label("Budget").select_option("macs=0.7")
    chosen = [
        "p",
        "a",
        "tr:visible .range",
        ".tag.good:visible",
        ".tag.bad:visible",
        "tr.baseline:visible th",
        "#count",
    ]
    assert {name: ratio for name in chosen if (ratio := contrast(page, name)) < 4.5} == {}
