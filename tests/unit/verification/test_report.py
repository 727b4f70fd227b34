"""The report is one complete, safe, readable page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

from opendt.model.errors import ModelError
from opendt.verification.report import render_report, write_report
from opendt.verification.report_data import Fact
from opendt.verification.score import DAY_MS
from tests.unit.verification.sample import HOSTILE, sample_report

VOID = {"meta", "link", "input", "br", "hr", "img", "path", "circle"}


class Page(HTMLParser):
    """Elements, ids and words of a page; fails on tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.words, self.targets = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.targets += [named["for"]] if "for" in named else []
        self.targets += [named["href"][1:]] if named.get("href", "").startswith("#") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html():
    return render_report(sample_report())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_says_all_of_it_without_script(page):
    score = sample_report().scores["hour"]
    for words in (
        "synthetic-week",
        f"{100 * score.mape_ratio:.2f}",
        f"{100 * score.persistence_mape_ratio:.2f}",
        f"{100 * score.coverage_ratio:.1f}",
        "One hour ahead, blind",
        "Five minutes ahead",
        "Host class compute",
        "Disturbance beside the curves",
        "Energy per day",
        "Carbon intensity of the grid",
        "breached in 70 of",
        "Take 8 idle hosts of class compute out of service",
        "objectives would hold",
        "an objective would be breached",
        "The learned curve has risen by 3.4 %",
        "sha256 5f0c9ab1",
        "UTC+1",
    ):
        assert words in page.text, words


def test_every_link_and_label_has_its_target_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)


def test_drawings_have_names_and_figures_have_tables(page):
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) > 20
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in pictures)
    figures = sum(tag == "figure" for tag, _ in page.tags)
    assert figures == sum(word == "Figures as a table" for word in page.words)


def test_nothing_is_loaded_from_anywhere(html, page):
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)", html)
    assert "@import" not in html
    assert not re.search(r"url\(", html)
    assert {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed"} == set()


def test_hostile_text_stays_text(page):
    assert HOSTILE in page.text
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    evil = replace(
        sample_report(),
        title=HOSTILE,
        summary=HOSTILE,
        curves=tuple(replace(curve, class_name=HOSTILE) for curve in sample_report().curves),
        slo_rows=tuple(
            replace(row, name=HOSTILE, target=HOSTILE, measured=HOSTILE) for row in sample_report().slo_rows
        ),
        events=tuple(replace(event, text=HOSTILE) for event in sample_report().events),
        facts=(Fact(HOSTILE, HOSTILE, HOSTILE),),
    )
    found = Page(render_report(evil))
    scripts = [attrs for tag, attrs in found.tags if tag == "script"]
    assert sum("type" not in attrs for attrs in scripts) == 1
    assert len(found.tags) == len(Page(render_report(replace(evil, title="t"))).tags)
    assert not any(tag == "img" for tag, _ in found.tags)


def test_the_same_data_give_the_same_bytes_and_a_week_stays_small(tmp_path, html):
    write_report(sample_report(), tmp_path / "report.html")
    written = (tmp_path / "report.html").read_bytes()
    assert written == html.encode()
    assert len(written) < 2_500_000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_parts_that_are_not_there_are_left_out():
    bare = replace(
        sample_report(),
        curves=(),
        disturbance=None,
        series=None,
        slo_rows=(),
        proposals=(),
        events=(),
        facts=(),
        start_epoch_ms=None,
    )
    page = Page(render_report(bare))
    assert {"forecast", "error", "coverage"} <= set(page.ids)
    assert {"learned", "energy", "load", "slo", "proposals", "events"}.isdisjoint(page.ids)
    assert "Day 2" in page.text


def test_a_short_run_without_a_rival_still_makes_a_page():
    data = sample_report(days=1)
    score = replace(
        data.scores["hour"],
        persistence_mape_ratio=None,
        skill_ratio=None,
        persistence_points=0,
        coverage_by_tercile_ratio=(1.0,),
    )
    rows = replace(data.kinds["hour"], persistence_w=np.full_like(data.kinds["hour"].power_w, np.nan))
    page = Page(render_report(replace(data, kinds={"hour": rows}, scores={"hour": score}, wall_s=0.0)))
    assert "no rival" in page.text


def test_many_proposals_are_folded_and_counted():
    data = sample_report()
    page = Page(render_report(replace(data, proposals=data.proposals * 30)))
    assert sum(attrs.get("class") == "proposal" for _, attrs in page.tags) == 200
    assert "192 more" in page.text
    assert "160 later ones are in the result files." in page.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": {}}, "kinds: found none"),
        ({"scores": {}}, r"scores\['hour'\]: found nothing"),
        ({"kinds": {"a b": None}}, "kinds: found a b, expected a name"),
    ],
)
def test_incomplete_data_are_refused(change, message):
    with pytest.raises(ModelError, match=message):
        render_report(replace(sample_report(), **change))


def test_columns_of_different_length_are_refused_and_nothing_is_written(tmp_path):
    data = sample_report()
    rows = replace(data.kinds["hour"], lower_w=np.zeros(3))
    with pytest.raises(ModelError, match=r"kinds\['hour'\].lower_w: found shape \(3,\)"):
        write_report(replace(data, kinds={**data.kinds, "hour": rows}), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_prediction_made_after_its_time_is_refused():
    data = sample_report()
    late = replace(data.kinds["hour"], issued_ms=data.kinds["hour"].target_ms)
    with pytest.raises(ModelError, match="each issued before its time"):
        render_report(replace(data, kinds={"hour": late}))


def luminance(colour):
    digits = colour.removeprefix("#")
    digits = "".join(2 * letter for letter in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_words_have_contrast_in_light_and_in_dark():
    """WCAG 2.2: 4.5 for text."""
    css = files("opendt.verification").joinpath("report.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", scheme))
        for front in ("ink", "soft", "accent", "good", "bad"):
            for back in ("paper", "card"):
                light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back, scheme)


def test_energy_of_days_adds_up_to_that_of_the_run():
    data = sample_report()
    page = render_report(data)
    rows = re.search(r"Energy per day.*?<tbody>(.*?)</tbody>", page, re.DOTALL)[1]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows.split("</tr>") if row]
    kwh = [[float(cell.replace("\u202f", "")) for cell in row[1:]] for row in cells]
    assert len(kwh) == 8
    np.testing.assert_allclose(np.sum(kwh[:-1], axis=0), kwh[-1], atol=0.5)
    measured = np.nansum(data.measured_w) * 30 / 3.6e6
    assert kwh[-1][0] == pytest.approx(measured, abs=0.1)
    assert data.end_ms == 7 * DAY_MS
