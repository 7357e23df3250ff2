"""Streams of clips with questions: their turns and positions, what each batch holds, and the process that composes batches."""
