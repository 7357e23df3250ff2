"""The verdicts of the notebooks: one module each, with its criteria, its measurements and its conclusion.

`judge` records criteria and measurements in a report, `conclude` composes the conclusion from the same values. Both take tables
and plain values, so that every verdict can be tested without a model.
"""
