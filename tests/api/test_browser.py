"""Pages in headless Chromium, without JavaScript: keyboard, contrast and structure (axe-core), narrow screens, print.

Run by `make browser-test`; SCREENSHOTS names a folder where pictures of every page are left.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app, open_services
from tests.api.pretend import Pretended, make

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
PAGES = {
    "runs": "/", "filtered": "/?state=finished&verifier=Example+Audit",
    "run": "/runs/8c1f0e77a2d4b690", "rejected": "/runs/27d0b1c95e3fa846",
    "proving": "/runs/f3a9c64b1180de25", "statements": "/runs/8c1f0e77a2d4b690/statements", "window": "/runs/8c1f0e77a2d4b690/windows/1",
    "start": "/runs/8c1f0e77a2d4b690/windows/-1", "statement": "", "log": "/log", "entry": "/log/entries/12", "about": "/about",
    "error": "/runs/none",
}


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Pretended:
    return make(tmp_path_factory.mktemp("pretended"))


@pytest.fixture(scope="module")
def address(pretended: Pretended) -> Iterator[str]:
    services = open_services(pretended.ledger_url, pretended.objects_url)
    PAGES["statement"] = f"/statements/{services.rows.tasks('27d0b1c95e3fa846', kind='layer')[6].statement_id}"
    server = uvicorn.Server(uvicorn.Config(create_app(services), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: make browser-test installs it")
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_no_fault_is_found_by_axe(name: str, dark: bool, address: str, browser: "playwright.Browser") -> None:
    from axe_playwright_python.sync_playwright import Axe

    scheme = "dark" if dark else "light"
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900})  # axe itself is a script
    page = context.new_page()
    page.goto(address + PAGES[name])
    results = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
    context.close()
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_from_elsewhere_and_no_policy_is_broken(name: str, address: str, browser: "playwright.Browser") -> None:
    context = browser.new_context(java_script_enabled=True)
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(address + PAGES[name], wait_until="networkidle")
    scripts = page.locator("script, [onclick], [style]").count()
    context.close()
    assert asked and all(url.startswith(address) for url in asked)
    assert scripts == 0 and [text for text in said if "favicon" not in text and "404" not in text] == []


@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_the_screen_without_javascript(name: str, width: int, address: str, browser: "playwright.Browser") -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(address + PAGES[name])
    assert page.locator("h1").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth")
    folder = os.environ.get("SCREENSHOTS")
    if folder and width != 768:
        page.screenshot(path=str(Path(folder) / f"{name}-{width}.png"), full_page=True)
    context.close()
    assert wide <= width


def test_links_of_a_run_lead_to_its_parts(address: str, browser: "playwright.Browser") -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + "/")
    page.get_by_label("State").select_option("finished")
    page.get_by_label("Verifier").fill("Second Audit")
    page.get_by_role("button", name="Filter").click()
    assert page.get_by_role("row").count() == 2
    page.get_by_role("link", name="27d0b1c95e3fa846").click()
    rejected = page.get_by_role("link", name="layer(1, 2): proof")
    assert "1 rejected" in str(rejected.get_attribute("aria-label"))
    rejected.click()
    assert page.get_by_role("heading", level=1).inner_text() == "layer(1, 2)"
    page.get_by_role("link", name="entry", exact=False).first.click()
    assert page.get_by_role("heading", name="Inclusion proof").is_visible()
    context.close()


def test_keyboard_goes_through_the_page_in_order(address: str, browser: "playwright.Browser") -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + "/")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 20) || document.activeElement.name"))
        focus = page.evaluate("[getComputedStyle(document.activeElement).outlineStyle, document.activeElement.type]")
        assert focus[0] != "none" or focus[1] == "date", seen  # a date field's calendar button has its own outline, inside the field
    assert seen[:5] == ["Skip to content", "VeriLoRA audit ledge", "Runs", "Log", "How to verify"]
    assert seen[5:7] == ["model", "dataset"] and "Filter" in seen
    page.goto(address + "/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    context.close()


def test_pages_print(address: str, browser: "playwright.Browser") -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + PAGES["run"])
    page.emulate_media(media="print")
    assert not page.locator(".contents").is_visible() and page.locator("#grid").is_visible()
    assert len(page.pdf()) > 10_000
    context.close()
