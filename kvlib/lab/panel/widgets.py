"""Controls for a notebook: change parameters, run again, and see the new figures. Without a browser they do nothing."""

from collections.abc import Callable

import ipywidgets as widgets
from IPython.display import display


def rerun_panel(run: Callable, **parameters) -> widgets.VBox:
    """A field for each of `parameters` and a button that calls `run(**values)` and shows what it returns.

    Whole numbers, numbers, truth values and texts get a field of their kind; a tuple gets a choice, its first entry chosen.
    `run` returns a list of things to display (tables, figures). An exception is shown in the panel, with its message.
    """
    fields = {name: _field(name, value) for name, value in parameters.items()}
    button, output = widgets.Button(description="Run again", button_style="primary", icon="play"), widgets.Output()

    def clicked(_):
        button.disabled = True
        output.clear_output()
        try:
            with output:
                for shown in run(**{name: field.value for name, field in fields.items()}):
                    display(shown)
        except Exception as error:  # shown in the panel, which stays usable
            output.append_stderr(f"{type(error).__name__}: {error}\n")
        finally:
            button.disabled = False

    button.on_click(clicked)
    return widgets.VBox([*fields.values(), button, output])


def _field(name: str, value) -> widgets.Widget:
    kinds = {bool: widgets.Checkbox, int: widgets.IntText, float: widgets.FloatText, str: widgets.Text}
    look = dict(description=name, style={"description_width": "initial"})
    if isinstance(value, tuple):
        return widgets.Dropdown(options=value, value=value[0], **look)
    if type(value) not in kinds:
        raise TypeError(f"{name}={value!r}: no field for {type(value).__name__}; give a number, a text or a tuple of choices")
    if isinstance(value, str):
        look["layout"] = {"width": "95%"}  # questions are long
    return kinds[type(value)](value=value, **look)
