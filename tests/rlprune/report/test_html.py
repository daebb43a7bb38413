"""The report is one file that works in a browser, from any content, with nothing from the network."""

import json
import re
import shutil
import subprocess

import pytest

from rlprune.errors import UserError
from rlprune.report.content import comparison_content, load_content, run_content
from rlprune.report.figures import draw_figures
from rlprune.report.html import render, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_holds_its_data_and_refers_to_nothing_outside(comparison, record):
    for content in (comparison_content(comparison), run_content(record)):
        page = render(content)
        assert data_of(page) == json.loads(json.dumps(content))
        outside = re.findall(
            r"""(?:src|href)=["'](?!data:)[^"']*|https?://(?!www\.w3\.org/2000/svg)\S+|@import""", page
        )
        assert not outside
        assert "{{" not in page.replace(json.dumps(content), "")


def test_names_in_the_data_stay_text(comparison):
    evil = "</script><script>window.broken=1</script>{{style}}"
    comparison["name"] = evil
    comparison["cells"][0]["controller"] = evil
    page = render(comparison_content(comparison))
    assert "<script>window.broken" not in page
    assert data_of(page)["title"] == evil


def test_content_counts_what_pruning_and_tuning_cost_together(comparison):
    cell = comparison_content(comparison)["cells"][0]
    assert cell["spent"]["images_trained"] == 8000  # the control from scratch is nobody's cost
    assert cell["seconds"] == pytest.approx(6.4)
    assert set(cell["stages"]) == {"prune", "finetune", "scratch"}


def test_a_failed_cell_is_shown_with_its_reason(comparison):
    cell = comparison_content(comparison)["cells"][-1]
    assert cell["status"] == "failed" and "cannot be met" in cell["error"]["message"]
    assert cell["stages"] == {} and cell["front"] == {}


def test_no_network_of_the_front_is_beaten(comparison):
    cells = [cell for cell in comparison_content(comparison)["cells"] if cell["stages"]]
    front = [cell for cell in cells if cell["front"]["finetune_test"]]
    assert 0 < len(front) < len(cells)
    for winner in front:
        mine = winner["stages"]["finetune"]
        for other in cells:
            theirs = other["stages"]["finetune"]
            better = theirs["test_score"] >= mine["test_score"] and theirs["macs"] <= mine["macs"]
            assert not better or (theirs["test_score"], theirs["macs"]) == (mine["test_score"], mine["macs"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "nothing to report"),
        ({"sensitivity.json": "{}"}, "sensitivity.png"),
        ({"record.json": "{"}, "cannot read"),
        ({"record.json": '{"status": "running", "rounds": [], "settings": {}}'}, "--resume"),
        ({"comparison.json": '{"cells": []}'}, "has no 'settings'"),
        ({"record.json": "[1]"}, "has no 'status'"),
    ],
)
def test_folders_without_a_report_are_refused_in_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_content(tmp_path)
    assert "\n" not in str(error.value)


PROBE = """
<pre id="probe"></pre>
<script>
const found = {};
const texts = (selector) => [...document.querySelectorAll(selector)].map((node) => node.textContent);
const cells = (column) => texts(`#table tbody tr td:nth-child(${column})`);
const heads = () => texts("#table th");
const press = (name) => document.querySelectorAll("#table th button")[heads().indexOf(name)].click();
found.sections = [...document.querySelectorAll("section")].map((node) => node.id);
found.tiles = texts(".tile");
found.standings = texts("#standings td");
found.networks = heads().includes("network") ? cells(heads().indexOf("network") + 1) : [];
found.charts = document.querySelectorAll("svg.chart").length;
found.marks = document.querySelectorAll("#scores svg.chart path[transform]").length;
const split = heads().includes("test") ? "test" : "control";
press(split);
found.descending = cells(heads().indexOf(split) + 1);
press(split);
found.ascending = cells(heads().indexOf(split) + 1);
const toggle = document.querySelector("#scores [data-controller]");
if (toggle) toggle.click();
found.marksAfterHiding = document.querySelectorAll("#scores svg.chart path[transform]").length;
for (const select of document.querySelectorAll("select")) {
  for (let i = 0; i < select.options.length; i++) { select.value = i; select.dispatchEvent(new Event("change")); }
}
const text = document.body.innerHTML.replace(/<script[^]*?<\\/script>/g, "");
found.nonsense = ["NaN", "undefined", "Infinity"].filter((word) => text.includes(word));
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const wide = document.querySelector("#cells .scroll");
found.table = wide.scrollWidth - wide.clientWidth;
found.unnamed = [...document.querySelectorAll("svg.chart")].filter((chart) => !chart.querySelector(".title")).length;
found.broken = window.broken;
document.getElementById("probe").textContent = JSON.stringify(found);
</script>
"""


def browse(page, tmp_path, width, dark=False):
    """Open a page and work it; returns what the probe found, and what the browser said on its console."""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", PROBE + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    flags += " --blink-settings=preferredColorScheme=0" if dark else ""
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    run = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.S)
    assert found and found[1], run.stderr
    return json.loads(found[1]), [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_a_comparison_works_in_a_browser(comparison, tmp_path, width, dark):
    comparison["cells"][0]["controller"] = "</script><script>window.broken=1</script>"
    found, console = browse(render(comparison_content(comparison)), tmp_path, width, dark)
    assert console == []
    assert found["sections"] == ["warnings", "scores", "standings", "drops", "widths", "rewards", "cells", "commands"]
    assert found["charts"] >= 3
    assert 0 < found["marksAfterHiding"] < found["marks"]
    falling = [float(text.split()[0]) for text in found["descending"][:-1]]
    rising = [float(text.split()[0]) for text in found["ascending"][:-1]]
    assert falling == sorted(rising, reverse=True) and rising == sorted(falling)
    assert found["descending"][-1] == found["ascending"][-1] == "–"  # the failed cell stays at the end
    assert found["nonsense"] == []
    assert found["overflow"] <= 0 and found["unnamed"] == 0
    assert found["table"] <= 0 or width < 1280, "every column is seen without scrolling"
    assert "broken" not in found


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_what_is_still_to_come_is_neither_failed_nor_beaten(comparison, tmp_path):
    first = comparison["cells"][0]
    for cell in comparison["cells"]:
        if cell["controller"] != first["controller"]:
            cell |= {"status": "running", "stages": {}}
            cell.pop("error", None)
    comparison["cells"][-1]["problem"] |= {"model": "torchvision:mobilenet_v3_small"}
    found, console = browse(render(comparison_content(comparison)), tmp_path, 1280)
    assert console == [] and found["nonsense"] == [] and found["overflow"] <= 0
    assert "running" in found["standings"] and "failed" not in found["standings"]
    assert any("nothing else is done" in text for text in found["tiles"])
    assert not [text for text in found["tiles"] if "leads" in text or "best mean rank" in text]
    assert any("torchvision:\u200bmobilenet_\u200bv3_" in text for text in found["networks"]), "breaks between words"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_a_run_works_in_a_browser(record, tmp_path):
    content = run_content(record)
    content["sensitivity"] = {
        "groups": ["a", "b"],
        "rates": [0.1, 0.5],
        "scores": [[0.9, 0.5], [0.8, 0.2]],
        "baseline": 0.9,
    }
    found, console = browse(render(content), tmp_path, 1200)
    assert console == []
    assert found["sections"] == ["scores", "drops", "widths", "sensitivity", "rewards", "cells", "commands"]
    assert found["nonsense"] == [] and found["overflow"] <= 0


def test_a_run_without_a_test_split_and_of_another_metric_has_a_report(record, tmp_path):
    for side in ("baseline", "pruned"):
        record[side] = {key: value for key, value in record[side].items() if not key.startswith("test_")}
        record[side] |= {"metric": "psnr", "percent": False, "control_interval": None}
    record["rounds"][0] |= {"slack": 0.4, "healing_predicted": 0.15, "bound_by": "tolerance", "epochs_left": 3.0}
    content = run_content(record) | {"sensitivity": None}
    assert content["cells"][0]["front"] == {"prune_control": True}
    assert set(draw_figures(content)) == {"scores", "drops", "widths", "rewards"}
    assert content["cells"][0]["rounds"][0]["bound_by"] == "tolerance"
    if BROWSER is None:
        return
    found, console = browse(render(content), tmp_path, 1280)
    assert console == [] and found["nonsense"] == [] and found["overflow"] <= 0


def test_a_scan_in_the_run_folder_is_in_the_report(record, tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(record))
    scan = {"settings": {}, "baseline": 0.9, "rates": [0.1, 0.5], "scores": {"a": [0.9, 0.5]}, "removed": {"a": [1, 5]}}
    (tmp_path / "sensitivity.json").write_text(json.dumps(scan))
    found = load_content(tmp_path)["sensitivity"]
    assert found == {"groups": ["a"], "rates": [0.1, 0.5], "scores": [[0.9, 0.5]], "baseline": 0.9}


def test_the_file_appears_whole(record, tmp_path):
    write_report(run_content(record), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
