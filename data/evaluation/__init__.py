"""The parts of `evaluate_reader.py`, which evaluates the embedded reader."""
