"""The report's figures as files: every one of them, from every kind of content."""

import xml.etree.ElementTree as ElementTree

import pytest

from rlprune.errors import UserError
from rlprune.report.content import comparison_content, run_content
from rlprune.report.figures import draw_figures, write_events, write_figures

SENSITIVITY = {"groups": ["a", "b"], "rates": [0.1, 0.5], "scores": [[0.9, 0.5], [0.8, 0.2]], "baseline": 0.9}


def test_a_comparison_has_every_figure_as_png_and_svg(few, tmp_path):
    content = comparison_content(few) | {"sensitivity": SENSITIVITY}
    files = write_figures(content, tmp_path)
    names = {"scores", "standings", "drops", "widths", "rewards", "sensitivity"}
    assert {path.name for path in files} == {f"{name}.{form}" for name in names for form in ("png", "svg")}
    for path in files:
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text())
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_has_the_figures_it_can_have(record):
    assert set(draw_figures(run_content(record))) == {"scores", "drops", "widths", "rewards"}


def test_an_unknown_format_names_the_known_ones(record, tmp_path):
    with pytest.raises(UserError, match="png"):
        write_figures(run_content(record), tmp_path, formats=["pgn"])


def test_tensorboard_holds_the_same_figures_once(few, tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    content = comparison_content(few)
    for _ in range(2):
        write_events(content, tmp_path / "events")
    found = loading.EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0}).Reload()
    assert {tag.removeprefix("report/") for tag in found.Tags()["images"]} == set(draw_figures(content))
    seeds = [event.step for event in found.Scalars("uniform/budget 0.5/prune test score")]
    assert seeds == [0, 1, 2]
