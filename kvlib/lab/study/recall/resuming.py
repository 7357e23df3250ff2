"""A stream that is written to a folder, taken up again from it, and asked with recall."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kvlib.evictor import EvictionConfig
from kvlib.lab.study.clips import encode_and_decode
from kvlib.lab.study.recall.comparison import list_questions
from kvlib.lab.study.retention import MAX_NEW_TOKENS, draw_history_stream
from kvlib.stream import VideoStreamingInference


def save_and_resume(
    model, processor, budget: int, chunks: int, ages: Sequence[int], seed: int, folder: Path
) -> tuple[pd.DataFrame, bool]:
    """Process half of a stream, `save` it to the empty `folder`, `resume` it from there, and let both engines process the rest.

    Returns the answers of both to the questions of the study with recall of 2 chunks, [question, age, truth, undisturbed,
    resumed], and whether their fingerprints are equal at the end.
    """
    scenes, colors = draw_history_stream(chunks, ages, seed)
    frames = list(encode_and_decode(scenes))
    engine = VideoStreamingInference(model, processor, model.device, EvictionConfig(budget), archive="memory")
    for chunk in frames[: chunks // 2]:
        engine.append_video_chunk(chunk)
    engine.save(folder)
    resumed = VideoStreamingInference.resume(folder, model, processor, model.device)
    for chunk in frames[chunks // 2 :]:
        engine.append_video_chunk(chunk)
        resumed.append_video_chunk(chunk)
    rows = []
    for row in list_questions(scenes, colors):
        said = [one.ask(row["text"], MAX_NEW_TOKENS, do_sample=False, recall=2)[0] for one in (engine, resumed)]
        rows.append({key: row[key] for key in ("question", "age", "truth")} | dict(undisturbed=said[0], resumed=said[1]))
    return pd.DataFrame(rows), engine.cache_manager.fingerprint() == resumed.cache_manager.fingerprint()
