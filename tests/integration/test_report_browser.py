"""A real browser opens the report: no complaint, nothing wider than the screen, all parts drawn, days and readings work."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape

import pytest

from opendt.verification.report import render_report
from tests.parts import require_part
from tests.unit.verification.sample import sample_report

WIDTHS = (360, 768, 1280)

# Runs inside the report and tells the page around it what it sees.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
  const box = (e) => e.getBoundingClientRect();
  const scrolls = (e) => e.closest(".scroll, nav > div") !== null;
  const wide = [...document.body.querySelectorAll("*")]
    .filter((e) => !scrolls(e) && !e.closest("svg") && !e.matches(".skip, .pick") && box(e).width && box(e).right > innerWidth + 0.5)
    .map((e) => e.tagName + "." + e.className);
  const state = () => ({
    panels: shown(".panel").map((e) => e.className),
    kinds: [...new Set(shown(".panel .legend .k").map((e) => e.className))],
  });
  const result = { width: innerWidth, page: document.documentElement.scrollWidth, wide, first: state() };
  result.plots = shown("figure.chart .plot").map((e) => Math.min(box(e).width, box(e).height));
  result.sections = shown("main > section").map((e) => e.id);
  result.ticks = shown(".p-all .x span").length;
  const plot = document.querySelector(".p-all .plot");
  const at = box(plot);
  const place = { clientX: at.left + at.width * 0.35, clientY: at.top + 20, bubbles: true };
  plot.dispatchEvent(new PointerEvent("pointermove", place));
  const tip = plot.querySelector(".tip");
  result.tip = tip.innerText;
  result.tipInside = box(tip).left >= at.left - 0.5 && box(tip).right <= at.right + 0.5;
  plot.dispatchEvent(new PointerEvent("pointerleave"));
  result.tipGone = !tip.getClientRects().length;
  plot.dispatchEvent(new MouseEvent("click", place));
  result.afterClick = state();
  document.querySelector("label[for=kind-window]").click();
  document.querySelector("label[for=span-4]").click();
  result.afterChoice = state();
  parent.postMessage(JSON.stringify(result), "*");
}, 50));
</script>"""

FRAME = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><pre id="found"></pre><script>
const found = [];
addEventListener("message", (event) => {
  found.push(JSON.parse(event.data));
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the browser found, per width, and its console."""
    chromium = require_part("chromium")
    folder = tmp_path_factory.mktemp("browser")
    report = render_report(sample_report())
    (folder / "report.html").write_text(report.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:800px;border:0"></iframe>' for width in WIDTHS
    )
    (folder / "frame.html").write_text(FRAME + frames, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [chromium, *flags, "--window-size=1400,900", "--dump-dom", (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stdout[-2000:]
    pages = {page["width"]: page for page in json.loads(unescape(text[1]) or "[]")}
    return pages, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_console_stays_empty(seen):
    pages, console = seen
    assert set(pages) == set(WIDTHS)
    assert console == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(seen, width):
    page = seen[0][width]
    assert page["wide"] == []
    assert page["page"] <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_section_and_chart_is_drawn(seen, width):
    page = seen[0][width]
    assert page["sections"] == [
        "forecast",
        "error",
        "coverage",
        "learned",
        "energy",
        "load",
        "slo",
        "proposals",
        "events",
    ]
    assert len(page["plots"]) == 15
    assert min(page["plots"]) > 150
    assert page["ticks"] == 7


@pytest.mark.parametrize("width", WIDTHS)
def test_days_and_kinds_can_be_chosen(seen, width):
    page = seen[0][width]
    assert page["first"] == {"panels": ["panel p-all"], "kinds": ["k k-hour"]}
    assert page["afterClick"]["panels"] == ["panel p-2"]  # 35 % of seven days lies in the third
    assert page["afterChoice"] == {"panels": ["panel p-4"], "kinds": ["k k-window"]}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_pointer_reads_off_time_and_values_of_the_chosen_kind(seen, width):
    page = seen[0][width]
    lines = [line for line in page["tip"].splitlines() if line]
    assert lines[0].startswith("Wed 6 Mar 11:")
    assert lines[1::2] == ["Measured", "Predicted", "90 % band"]
    assert all(line.endswith(" kW") for line in lines[2::2])
    assert page["tipInside"]
    assert page["tipGone"]
