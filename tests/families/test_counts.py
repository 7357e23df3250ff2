"""The tokens that are counted from pixels alone are those of the engine, for every family."""

from kvlib import VideoStreamingInference
from kvlib.lab.report import paths
from kvlib.lab.video import dropping
from kvlib.lab.video.source import VideoSource

CLIP = paths.DATA / "clips/short.mp4"  # 12 s: 24 frames at 2 a second; ten of them exceed Qwen3-VL's limit for a whole chunk


def test_counts_of_a_video_are_those_of_the_engine(model, processor):
    counts, _ = dropping.count_kept(model.config, processor, CLIP, 2.0, [2, 10], [0.0, 0.03])
    assert (counts["dropped"] > 0).tolist() == [False, False, False, True]
    for row in counts.itertuples():
        engine = VideoStreamingInference(model, processor, "cpu", drop_static=row.drop_static)
        for _, chunk in VideoSource(CLIP, row.chunk_frames, 2.0).chunks():
            info = engine.append_video_chunk(chunk.frames, chunk.fps)
        assert (row.chunks, row.tokens, row.dropped) == (info["chunks"], info["tokens_seen"], info["tokens_dropped"])
