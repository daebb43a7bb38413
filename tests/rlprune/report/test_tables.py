"""What is printed fits 80 columns, cuts no number, breaks no name, and takes no name for markup."""

import io
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlprune.channels import trace_channels
from rlprune.cost import CostModel
from rlprune.models import create_model
from rlprune.report.analysis import analyse
from rlprune.report.groups import print_groups
from rlprune.report.methods import print_constants, print_methods
from rlprune.report.pareto import Network, print_networks
from rlprune.report.scans import print_scan
from rlprune.report.standings import print_comparison
from rlprune.report.summary import describe_scores, near_chance, print_summary
from rlprune.report.tables import layout
from rlprune.scoring.sensitivity import Sensitivity

names = st.text("abc.[/]_0", min_size=1, max_size=30)
numbers = st.floats(-1e6, 1e6).map(lambda value: f"{value:.2f}")


def printed(draw, *args, width=80):
    out = io.StringIO()
    draw(*args, Console(file=out, width=width))
    return out.getvalue()


@given(st.lists(st.tuples(names, st.lists(numbers, min_size=12, max_size=12)), min_size=1, max_size=5))
def test_a_table_fits_and_holds_every_text_whole(rows):
    heads = ["group", *(f"column {i}" for i in range(12))]
    text = layout(heads, [(name, *values) for name, values in rows], 80)
    assert max(map(len, text.splitlines())) <= 80
    words = text.split()
    for name, values in rows:
        assert name in words and set(values) <= set(words)


def test_lists_go_on_in_the_next_line_after_a_comma():
    text = layout(("group", "read by"), [("a", ", ".join(["layer1.0.conv1"] * 9))], 80, left=("read by",))
    assert max(map(len, text.splitlines())) <= 80 and text.count("layer1.0.conv1") == 9


def test_a_comparison_fits_80_columns(comparison):
    comparison["cells"][0]["controller"] = "agent_ppo-resnet"
    for cell in comparison["cells"]:
        if cell["controller"] == "prc":
            cell["controller"] = "a[/red]"
    text = printed(print_comparison, analyse(comparison["cells"], "uniform"))
    tables = [line for line in text.splitlines() if not line.startswith(("Too close", "Mean ranks"))]
    assert max(map(len, tables)) <= 80
    assert "…" not in text and "a[/red]" in text and "agent_ppo-resnet" in text


def test_level_schedules_are_called_level(comparison):
    cells = [cell for cell in comparison["cells"] if cell["controller"] in ("uniform", "prc") and cell["stages"]]
    for cell in cells:
        jitter = 1e-16 if cell["controller"] == "prc" else 0.0
        for stage in cell["stages"].values():
            if stage["status"] == "finished":
                stage["pruned"] |= {"control_score": 0.9 + jitter, "test_score": 0.9}
    found = analyse(cells, "uniform")
    texts = [warning["text"] for warning in found["warnings"] if warning["split"] != "seeds"]
    assert len(texts) == 4 and all("are level" in text and "needed" not in text for text in texts)
    assert all(table["close"] for table in found["settings"] if table["goal"]["kind"] == "budget")


def test_a_summary_says_the_tolerance_only_where_there_is_one(record):
    record["widths"][0]["name"] = "a[/red]"
    record["latency"] |= {"batch": 1, "threads": 2}
    text = printed(print_summary, record)
    assert "Control drop 0.60 points, within the tolerance of 1.00." in text
    assert "batch of 1, 2 threads" in text and "a[/red]" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "tolerance of" not in printed(print_summary, {**record, "tolerance": 1.0})
    assert "OUTSIDE the tolerance of 0.50" in printed(print_summary, {**record, "tolerance": 0.005})


def test_other_metrics_are_written_as_they_are(record):
    for side in ("baseline", "pruned"):
        more = {"metric": "psnr", "percent": False, "control_score": 31.2, "test_score": 30.9}
        record[side] = {**record[side], **more, "control_interval": None, "test_interval": [30.1, 31.8]}
    assert "within" not in printed(print_summary, {**record, "drop": 0.31, "tolerance": 1e9})
    text = printed(print_summary, {**record, "drop": 0.31, "tolerance": 0.5})
    assert "lenet5 on digits: psnr" in text and "30.9 [30.1, 31.8]" in text
    assert "Control drop 0.31 psnr, within the tolerance of 0.5." in text and "%" not in text.split("filters")[0]
    assert describe_scores(record["pruned"]).startswith("test       psnr 30.9 [30.1, 31.8], psnr on 450 examples")


def test_other_tables_print_brackets_too(tmp_path):
    scan = Sensitivity({}, 0.9, (0.1, 0.5), {"a[/red]": [0.9, 0.4]})
    assert "a[/red]" in printed(print_scan, scan) and "50.0" in printed(print_scan, scan)
    assert "[x]" in printed(print_methods, {"m": "does [x]"})
    assert "--lr" in printed(print_constants, "m", "[x]", {"--lr": 0.1})
    about = ("n", "d", "c", 0, 0.9, 0.8, 1000, 10)
    networks = [Network(f"run{i}", tmp_path, "run", "prune", *about, 0.001, bool(i)) for i in range(2)]
    text = printed(print_networks, networks, networks[:1])
    assert "~1.00 ms" in text and "not ranked" in text and text.splitlines()[2].startswith("*")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_width_cuts_a_name(width):
    name = "a." * 40 + "conv"
    assert name in layout(("group", "before"), [(name, "12")], width)


def test_the_groups_of_a_network_fit_80_columns_with_every_name_whole():
    groups = trace_channels(create_model("resnet20"), torch.zeros(1, 3, 32, 32))
    text = printed(print_groups, groups, CostModel(groups))
    table = text.split("locked ")[0]
    assert max(map(len, table.splitlines())) <= 80
    for group in groups:
        for name in (group.name, *group.producers, *group.consumers):
            assert re.search(rf"(^|\s){re.escape(name)}(,|\s|$)", text), name


def test_a_baseline_near_chance_is_spoken_of():
    assert "normalised in another way" in near_chance("accuracy", 0.11, 10)
    assert near_chance("accuracy", 0.5, 10) is None and near_chance("miou", 0.01, 10) is None
