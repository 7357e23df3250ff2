"""The parts of `train_reader.py`, which trains the embedded reader."""
