"""Debian's Chromium without a window, for tests of pages, and for the picture in docs/serving.md:

    python tests/browser.py URL OUT.jpg PICTURE…

uploads the pictures to a page of `paddle-attn serve` and writes how it looks in a window and on a phone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

HANG = 600  # seconds
WIDE, PHONE = (1280, 900), (390, 844)  # pixels
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def chromium() -> tuple[str, str] | None:
    """The paths of Chromium and of its driver; None when one is not installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Page:
    """A page of `paddle-attn serve` in a browser."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get_log("performance")  # the browser's own start page is not ours
        self.driver.get(url)
        self.wait_for("#pa-upload input[type=file]")

    def upload(self, paths: Sequence[Path]) -> None:
        """Choose files, and wait for a card for each."""
        field = self.driver.find_element(By.CSS_SELECTOR, "#pa-upload input[type=file]")
        field.send_keys("\n".join(str(path.resolve()) for path in paths))
        self.wait_for(".pa-card", len(paths))

    def wait_for(self, selector: str, count: int = 1) -> None:
        WebDriverWait(self.driver, HANG).until(
            lambda driver: len(driver.find_elements(By.CSS_SELECTOR, selector)) >= count
        )

    def wait_for_text(self, text: str, selector: str, gone: bool = False) -> None:
        """Wait until an element shows a text, or no longer shows it."""
        WebDriverWait(self.driver, HANG).until(lambda _: (text in self.text(selector)) != gone)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def text(self, selector: str = "body") -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def hosts(self) -> set[str]:
        """The hosts of all requests since `open`, and of refused ones."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        own = [each for each in sent if not each.get("documentURL", "").startswith("chrome://")]
        addresses = [urlsplit(each["request"]["url"]) for each in own]
        return {each.netloc for each in addresses if each.scheme not in ("data", "blob", "chrome")}

    def refused(self) -> list[str]:
        """What the page wanted to load and its policy forbids, and errors of its scripts."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [text for text in messages if "Security Policy" in text or "Uncaught" in text]

    def screenshot(self) -> Image.Image:
        """The whole page."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


@contextlib.contextmanager
def browse(size: tuple[int, int] = WIDE, language: str = "en-US", dark: bool = False) -> Iterator[Page]:
    """A new browser with an empty profile, as on a phone if the window is narrow."""
    browser, driver = chromium()
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--lang={language}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        running = webdriver.Chrome(options, Service(driver))
        try:
            width, height = size
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            running.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield Page(running)
        finally:
            running.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    arguments = parser.parse_args()
    shots = []
    for size in (WIDE, PHONE):
        with browse(size) as page:
            page.open(arguments.url)
            page.upload(arguments.pictures)
            shots.append(page.screenshot())
    wide, phone = shots
    phone = phone.crop((0, 0, phone.width, min(phone.height, wide.height)))
    both = Image.new("RGB", (wide.width + 40 + phone.width, wide.height), "#d0d4da")
    both.paste(wide, (0, 0))
    both.paste(phone, (wide.width + 40, 0))
    both.save(arguments.out, quality=70, optimize=True)


if __name__ == "__main__":
    main()
