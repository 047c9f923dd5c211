"""The page of `cargo demo --serve` in a real browser, Debian's Chromium, as a person sees and uses it.

`PICTURE=write .venv/bin/python -m pytest tests/python/test_page.py` makes docs/page.png again."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from commands import client_of
from conftest import FUNCTION, OPENER, ROOT, TARGET, eventually
from png import smaller
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PICTURE = ROOT / "docs/page.png"
LARGEST_PICTURE = 200_000

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium with its chromedriver: apt-get install chromium chromium-driver"
)

# What stands in the way of reading: the contrast of every text that is seen, by WCAG's formula.
WORST_CONTRAST = """
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
let worst = [99, ""];
for (const element of document.querySelectorAll("body *")) {
  if (![...element.childNodes].some(child => child.nodeType === 3 && child.data.trim()) || !element.offsetParent) continue;
  if (element.disabled || element.closest("script, [aria-hidden=true], option")) continue;
  let behind = element;
  while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const back = behind ? numbers(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
  const contrast = (a + .05) / (b + .05);
  if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 120)];
}
return worst;
"""


class Page:
    """The demo that stays up, and a browser that shows its page."""

    def __init__(self, folder):
        self.log = folder / "emulator.log"
        with self.log.open("w") as output:
            command = [TARGET / "emulator", "demo", "--serve", "--function", FUNCTION]
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.url = eventually(lambda: self.said(r"See it in a browser: (http://\S+/)"), 60)
        self.endpoint = eventually(lambda: self.said(r"listen on (http://\S+) "))
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-lcd-text", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-proxy-server"]:
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={folder / 'profile'}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.bodies = []
        self.size(1200, 900)
        self.show()

    def said(self, pattern):
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(pattern, self.log.read_text())
        return found and found[1]

    def show(self):
        self.driver.get(self.url)
        eventually(lambda: self.rows("#promises li"))

    def size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name):
        media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def rows(self, selector):
        """What can be read in each of them."""
        return self.script("return [...document.querySelectorAll(arguments[0])].map(row => row.innerText)", selector)

    def text(self, selector):
        return " ".join(self.rows(selector))

    def press(self, name):
        self.driver.find_element(By.ID, name).click()

    def choose(self, name, value):
        Select(self.driver.find_element(By.ID, name)).select_by_value(value)

    def current(self):
        """The version and the key that readers get, as the page shows them."""
        row = next(row for row in self.rows("#versions li") if "AWSCURRENT" in row)
        return row[:8], re.search(r"holds key (\w+)", row)[1]

    def key(self, key):
        return next(row for row in self.rows("#keys .key") if row.startswith(key))

    def rotated(self):
        """Presses the button, and waits for the end of the rotation."""
        before = self.current()
        self.press("rotate")
        eventually(lambda: self.current()[0] != before[0] and "Last rotated" in self.text("#standing"), 90)
        return before[1], self.current()[1]

    def verdicts(self):
        return {row[:2]: re.search(r"held|BROKEN|open", row)[0] for row in self.rows("#promises li")}

    def all_held(self):
        return eventually(lambda: set(self.verdicts().values()) == {"held"} and self.verdicts())

    def console(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def answers(self):
        """What the browser has been sent, as far as it still has it."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.loadingFinished":
                try:
                    request = {"requestId": message["params"]["requestId"]}
                    self.bodies.append(self.driver.execute_cdp_cmd("Network.getResponseBody", request)["body"])
                except Exception as gone:
                    assert "No resource" in str(gone) or "No data" in str(gone), gone
        return self.bodies

    def stop(self):
        self.driver.quit()
        self.process.terminate()
        self.process.wait(60)
        print(self.log.read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    running = Page(tmp_path_factory.mktemp("page"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def nothing_in_the_console(page):
    page.size(1200, 900)
    page.scheme("light")
    yield
    assert page.console() == []


def test_a_rotation_is_seen(page):
    assert page.all_held().keys() == {f"I{number}" for number in range(1, 8)}
    old, new = page.rotated()
    assert old != new
    assert "AWSCURRENT" in page.key(new) and "works" in page.key(new) and "minted to replace version" in page.key(new)
    assert "AWSPREVIOUS" in page.key(old) and "in its grace period, ends in" in page.key(old)
    calls = page.text("#lines")
    for words in ["createSecret", "Which key is in use?", "Mint a new key.", "Keep the new key, at once.", "Does the new key work?", "Readers get the new key"]:
        assert words in calls, calls
    assert {promise for promise in page.rows("#lines .promise")} >= {"I1", "I2", "I3", "I6"}
    page.all_held()


def test_a_lost_answer_is_seen_and_healed(page):
    page.choose("faults", "rotate@function#1=drop-after")
    page.press("fault")
    eventually(lambda: "Kosli mints a key, and its answer is lost" in page.text("#pending"))
    known = {row[:8] for row in page.rows("#keys .key")}
    _, new = page.rotated()
    assert "Fault: drop-after. It did happen." in page.text("#lines")
    lost = {row[:8] for row in page.rows("#keys .key")} - known - {new}
    assert len(lost) == 1
    assert all(words in page.key(*lost) for words in ["lost", "revoked", "minted to replace version"])
    assert not page.driver.find_element(By.ID, "pending").is_displayed()
    page.all_held()


def test_an_immediate_revocation_is_seen(page):
    page.choose("when", "immediately")
    page.press("old-key")
    eventually(lambda: "You tagged the secret" in page.text("#said"))
    old, new = page.rotated()
    assert "revoked" in page.key(old) and "works" in page.key(new)
    assert "End a key that is not needed any more." in page.text("#lines")
    page.choose("when", "after-grace-period")
    page.press("old-key")
    page.all_held()


def test_the_key_in_use_is_revoked_by_hand_and_the_next_rotation_heals_it(page):
    _, key = page.current()
    page.driver.find_element(By.CSS_SELECTOR, f"button[aria-label='Revoke the key {key}']").click()
    eventually(lambda: page.verdicts()["I1"] == "open")
    assert "not by the function's doing" in page.text("#promises")
    _, new = page.rotated()
    assert "works" in page.key(new)
    page.all_held()


def test_the_value_is_edited_and_the_clock_is_moved(page):
    version, key = page.current()
    page.press("edit")
    eventually(lambda: page.current()[0] != version)
    assert page.current()[1] == key
    old, _ = page.rotated()
    page.choose("by", "25h")
    page.press("clock")
    eventually(lambda: "grace period over, ended" in page.key(old))
    page.all_held()


def test_the_keyboard_reaches_everything_in_order(page):
    page.show()
    expected = page.script("return [...document.querySelectorAll('button:enabled, select, #lines')].map(e => e.id || e.ariaLabel)")
    reached = []
    for _ in range(len(expected)):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        name, outline = page.script(
            "const e = document.activeElement; return [e.id || e.ariaLabel, getComputedStyle(e).outlineStyle]"
        )
        reached.append(name)
        assert outline == "solid", name
    assert reached == expected
    assert {"rotate", "edit", "fault", "clock", "old-key"} <= set(reached)

    # A new look at the services takes the focus from nobody, and Enter presses the button.
    page.script("document.getElementById('edit').focus()")
    version, _ = page.current()
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    eventually(lambda: page.current()[0] != version)
    assert page.script("return document.activeElement.id") == "edit"
    assert page.driver.find_element(By.ID, "lines").get_attribute("aria-live") == "polite"
    unnamed = "return [...document.querySelectorAll('button, select')].filter(e => !(e.ariaLabel || e.innerText.trim())).length"
    assert page.script(unnamed) == 0


@pytest.mark.parametrize("width", [320, 768, 1200])
def test_nothing_scrolls_sideways(page, width):
    page.size(width, 800)
    widths = page.script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1] <= width
    outside = "return [...document.querySelectorAll('main *')].filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"
    assert page.script(outside) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(page, scheme):
    page.scheme(scheme)
    red = int(page.script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert (red < 60) == (scheme == "dark")
    contrast, element = page.script(WORST_CONTRAST)
    assert 4.5 <= contrast < 99, element


def test_no_keys_value_reaches_the_browser(page):
    aws = client_of("secretsmanager", page.endpoint)
    values = [aws.get_secret_value(SecretId="kosli/admin")["SecretString"]]
    versions = aws.list_secret_version_ids(SecretId="kosli/ci", IncludeDeprecated=True)["Versions"]
    for version in versions:
        value = aws.get_secret_value(SecretId="kosli/ci", VersionId=version["VersionId"])["SecretString"]
        values.append(json.loads(value)["api_key"])
    # An id may be a value's beginning: what is secret is the rest.
    secrets = {value[-24:] for value in values}
    assert len(secrets) > 5
    answers = page.answers()
    assert any('"promises"' in answer for answer in answers) and any("<!doctype html>" in answer for answer in answers)
    shown = [*answers, page.script("return document.documentElement.outerHTML")]
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_no_other_page_may_ask(page):
    host = page.url.split("/")[2]
    other = {"Origin": "http://evil.example"}
    ours = {"X-Emulator-Page": "1", "Content-Type": "application/json"}

    def status(path, method="GET", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"{}" if method == "POST" else None
        message = urllib.request.Request(f"http://{host}{path}", method=method, data=body, headers=headers)
        try:
            return OPENER.open(message, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code

    calls = len(page.rows("#lines li"))
    assert (status("/"), status("/state", **ours)) == (200, 200)
    for method, path in [("GET", "/state"), ("POST", "/edit"), ("POST", "/rotate")]:
        assert status(path, method) == 403
        assert status(path, method, **ours, **other) == 403
        assert status(path, method, **ours, Sec_Fetch_Site="cross-site") == 403
        assert status(path, method, **ours, Host="evil.example") == 403
        assert status(path, method, **ours, Host=f"evil.example:{host.split(':')[1]}") == 403
    assert status("/", Host="evil.example") == 403
    # The question that a browser asks first gets no permission.
    assert status("/rotate", "OPTIONS", **other) == 403
    assert status("/api/v2/environments/acme", **ours) == 404, "the services are on another port"
    assert len(page.rows("#lines li")) == calls
    policy = OPENER.open(page.url).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_the_picture_is_made(tmp_path):
    """A rotation whose mint was answered into nowhere, on a page that has seen nothing else."""
    picture = PICTURE if os.environ.get("PICTURE") == "write" else tmp_path / "page.png"
    page = Page(tmp_path)
    try:
        page.choose("faults", "rotate@function#1=drop-after")
        page.press("fault")
        page.rotated()
        page.all_held()
        page.size(1100, page.script("return document.querySelector('main').scrollHeight"))
        page.script("document.activeElement.blur(); document.querySelector('#lines .fault').scrollIntoView({block: 'center'}); scrollTo(0, 0)")
        picture.write_bytes(smaller(page.driver.get_screenshot_as_png()))
        assert picture.stat().st_size < LARGEST_PICTURE
        assert page.console() == []
    finally:
        page.stop()


def test_the_picture_is_small(page):
    assert PICTURE.read_bytes().startswith(b"\x89PNG") and PICTURE.stat().st_size < LARGEST_PICTURE
