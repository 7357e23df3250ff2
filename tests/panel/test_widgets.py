"""The panel, pressed as a browser would press it."""

import pytest

from kvlib.lab.panel.widgets import rerun_panel


def test_the_button_runs_with_the_values_in_the_fields():
    calls = []
    panel = rerun_panel(lambda **values: calls.append(values) or [], BUDGET=900, FPS=2.0, MODE=("keep", "remap"), NAME="x")
    budget, _, mode, _, button, _ = panel.children
    budget.value, mode.value = 1200, "remap"
    button.click()
    assert calls == [{"BUDGET": 1200, "FPS": 2.0, "MODE": "remap", "NAME": "x"}]
    assert not button.disabled


def test_an_error_is_shown_and_the_panel_stays_usable():
    def run(BUDGET):
        raise ValueError(f"budget {BUDGET} is too small")

    panel = rerun_panel(run, BUDGET=3)
    *_, button, output = panel.children
    button.click()
    assert "ValueError: budget 3 is too small" in output.outputs[0]["text"]
    assert not button.disabled


def test_a_parameter_without_a_field_is_named():
    with pytest.raises(TypeError, match="CHUNKS=.*dict"):
        rerun_panel(print, CHUNKS={})
