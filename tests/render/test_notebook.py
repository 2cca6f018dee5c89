import html
import re

import torch
from torch import nn

from camtrain import explain
from camtrain.render.notebook import picture_table
from camtrain.report import ReportPage, write_report


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_explanation__shows_itself_in_a_notebook():
    shown = explain(network(), torch.rand(3, 3, 16, 16))._repr_html_()
    assert shown.count("<img") == 3 * 3
    assert re.findall(r"<th[^>]*>(\w*)</th>", shown) == ["image", "grad_cam", "grad_cam_plus_plus", ""]
    assert shown.count("score ") == 3


def test_explanation__says_where_a_heatmap_is_empty():
    dead = network()
    nn.init.constant_(dead[0].bias, -100.0)
    assert "grad_cam: ZERO_GRADIENT" in explain(dead, torch.rand(1, 3, 16, 16), methods="grad_cam")._repr_html_()


def test_explanation__of_volumes_shows_text():
    volume = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    shown = explain(volume, torch.rand(1, 3, 6, 8, 8), methods="grad_cam")._repr_html_()
    assert shown.startswith("<pre>Explanation(")
    assert "<img" not in shown


def test_picture_table__shows_the_first_and_counts_the_rest():
    dark = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    shown = picture_table(dark, {}, ["<b>"] * 5, most=2)
    assert shown.count("<img") == 2
    assert "and 3 images more" in shown
    assert "<b>" not in shown


def test_report_page__holds_the_report(tmp_path):
    shown = ReportPage(write_report(tmp_path))._repr_html_()
    (inner,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(inner) == (tmp_path / "report.html").read_text()
