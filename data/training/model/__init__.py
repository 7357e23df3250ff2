"""The model: its checkpoint, its forward for training, and what is checked while it trains."""
