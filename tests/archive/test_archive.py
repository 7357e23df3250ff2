"""The archive: what it keeps, its limit, a full disk, a folder that is not its own."""

import os
import resource
import warnings
from concurrent.futures import Future

import pytest
import torch
from helpers import QUESTION

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.archive.index import KeyIndex
from kvlib.policies import Importance

BYTES = 16 * 3 * 2 * 2 * 16 * 4  # of a chunk of 16 tokens: layers, keys and values, KV heads, head dim, fp32


@pytest.fixture(params=["memory", "folder"])
def where(request, tmp_path):
    return "memory" if request.param == "memory" else tmp_path / "archive"


def archived(engine) -> list[int]:
    return [chunk.span.index for chunk in engine.cache_manager.state.archived]


def test_folder_and_memory_recall_the_same(streamed, tmp_path):
    one, other = streamed(20), streamed(20, archive=tmp_path / "archive")
    asked = dict(max_new_tokens=6, do_sample=False, recall=2)
    (answer, metrics), (same, others) = one.ask(QUESTION, **asked), other.ask(QUESTION, **asked)
    assert answer == same and metrics["recalled"] == others["recalled"] != []
    assert torch.equal(one.question_logits(QUESTION, recall=2), other.question_logits(QUESTION, recall=2))
    assert len(list((tmp_path / "archive").glob("chunk-*.safetensors"))) == 20


def test_the_limit_drops_the_oldest_evicted_chunks(model, processor, frames, where):
    limit = 10 * BYTES
    config = EvictionConfig(160, recall_tokens=40)
    engine = VideoStreamingInference(model, processor, "cpu", config, archive=where, archive_bytes=limit)
    for seed in range(30):
        info = engine.append_video_chunk(frames(2, seed))
        assert info["archived_bytes"] <= limit
        assert archived(engine)[0] == 0, "the sink is part of the stream and stays"
    kept = archived(engine)
    assert kept[1:] == list(range(30 - len(kept) + 1, 30))
    assert info["archive_dropped"] == 30 - len(kept)
    stored = {chunk.index for chunk in engine.cache_manager.chunks}
    recalled = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=2)[1]["recalled"]
    assert {row["index"] for row in recalled} <= set(kept) - stored
    if where != "memory":
        assert len(list(where.glob("chunk-*.safetensors"))) <= len(kept) + 1
    assert engine.cache_manager.archive.index.table.rows.shape[3] == 64, "rows of dropped chunks are used again"


def test_index_rows_of_dropped_chunks_are_used_again():
    index = KeyIndex()
    for number in range(1000):
        index.add(number, torch.full((2, 2, 1, 1, 4), float(number)), range(max(0, number - 20), number))
    assert len(index.table.owners) == 64
    shares = index.shares(torch.full((1, 1, 4), 1e-4), range(980, 1000))
    assert [*shares] == list(range(999, 979, -1)), "the larger the keys the larger the share"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert index.shares(torch.ones(1, 1, 4), []) == {}


def test_a_chunk_of_which_one_key_stands_out_is_found():
    """Both chunks have the same mean key; in one of them a single key is far from it, and attention goes to that one."""
    even = torch.ones(16, 4)
    outlying = even.clone()
    outlying[0, 0] += 15
    outlying[1:, 0] -= 1
    index = KeyIndex()
    for number, keys in enumerate((even, outlying)):
        index.add(number, torch.stack([keys.mean(0), keys.var(0, correction=0)])[None, :, None, None], [])
    query = torch.tensor([1.0, 0, 0, 0])
    exact = torch.stack([(keys @ query / 2).exp().mean() for keys in (even, outlying)])
    shares = index.shares(query.view(1, 1, 4), [0, 1])
    assert [*shares] == [1, 0] and (exact[1] > 10 * exact[0]) and shares[1] > 0.8


def test_a_chunk_added_twice_counts_once():
    index = KeyIndex()
    for value in (5.0, 1.0):
        index.add(0, torch.full((1, 2, 1, 1, 4), value), [])
    index.add(1, torch.full((1, 2, 1, 1, 4), 1.0), [0])
    assert index.shares(torch.ones(1, 1, 4), [0, 1]) == pytest.approx({0: 0.5, 1: 0.5})


@pytest.mark.parametrize("limit", [0, -5, 1.5, True, "1 GB"])
def test_a_limit_that_cannot_be_used(model, processor, limit):
    with pytest.raises(ValueError, match="archive_bytes="):
        VideoStreamingInference(model, processor, "cpu", EvictionConfig(160), archive="memory", archive_bytes=limit)


def test_a_limit_needs_an_archive(model, processor):
    with pytest.raises(ValueError, match="archive='memory' or a folder"):
        VideoStreamingInference(model, processor, "cpu", EvictionConfig(160), archive_bytes=10**9)


def test_a_folder_with_files_is_refused(streamed, tmp_path):
    streamed(2, archive=tmp_path / "stream")
    with pytest.raises(ValueError, match=r"holds files already.*resume\(\)"):
        streamed(0, archive=tmp_path / "stream")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("a")
    with pytest.raises(ValueError, match="give an empty one"):
        streamed(0, archive=tmp_path / "letters")
    assert (tmp_path / "letters/a.txt").read_text() == "a"
    with pytest.raises(OSError):
        streamed(0, archive=tmp_path / "letters/a.txt/below")


def test_a_full_disk_is_said_and_the_stream_goes_on(streamed, frames, tmp_path):
    """The operating system refuses files of more than a part of a chunk, as it refuses to write on a full disk."""
    engine, plain = streamed(12, archive=tmp_path / "archive"), streamed(12)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 2, hard))
    try:
        with pytest.warns(UserWarning, match="the archive takes no more chunks"):
            engine.append_video_chunk(frames(2, 12))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    plain.append_video_chunk(frames(2, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in (engine, plain):
            info = target.append_video_chunk(frames(2, 13))
    assert torch.equal(engine.question_logits(QUESTION), plain.question_logits(QUESTION))
    info = engine.get_cache_info()
    assert info["archive_failure"] and info["archived_chunks"] == 12
    assert engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1)[1]["recalled"], "what it has can be recalled"
    assert VideoStreamingInference.resume(
        tmp_path / "archive", engine.model, engine.processor, "cpu"
    ).cache_manager.chunks_seen == 12  # fmt: skip


def test_whatever_the_writing_thread_raises_ends_the_archive_not_the_stream(streamed, frames):
    """On a CUDA device a chunk is written while the next one is processed; the error comes with that one."""
    engine, plain = streamed(12), streamed(12)
    failed = Future()
    failed.set_exception(RuntimeError("no pinned memory"))
    engine.cache_manager.archive._last = failed
    with pytest.warns(UserWarning, match="takes no more chunks .*no pinned memory"):
        engine.append_video_chunk(frames(2, 12))
    assert archived(engine) == list(range(11)), "the chunk that was not written is not archived"
    plain.append_video_chunk(frames(2, 12))
    for target in (engine, plain):
        target.append_video_chunk(frames(2, 13))
    assert torch.equal(engine.question_logits(QUESTION), plain.question_logits(QUESTION))


def test_a_chunk_whose_file_is_gone_is_an_error_of_the_question(streamed, tmp_path):
    engine = streamed(20, archive=tmp_path / "archive")
    index = engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1)[1]["recalled"][0]["index"]
    os.truncate(tmp_path / f"archive/chunk-{index:08d}.safetensors", 500)
    before = engine.cache_manager.fingerprint()
    with pytest.raises(ValueError, match=f"chunk-{index:08d}.safetensors cannot be read"):
        engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1)
    assert engine.cache_manager.fingerprint() == before
    engine.ask(QUESTION, max_new_tokens=1, do_sample=False)


def test_a_restored_snapshot_cuts_the_archive_too(streamed, frames, tmp_path):
    engine = streamed(4, archive=tmp_path / "archive", max_cache_tokens=400)
    snapshot, before = engine.cache_manager.take_snapshot(), engine.cache_manager.fingerprint()
    for seed in (50, 51):
        engine.append_video_chunk(frames(2, seed))
    engine.cache_manager.restore_snapshot(snapshot)
    assert engine.cache_manager.fingerprint() == before and archived(engine) == [0, 1, 2, 3]
    twin = streamed(5, max_cache_tokens=400)
    engine.append_video_chunk(frames(2, 4))
    resumed = VideoStreamingInference.resume(tmp_path / "archive", engine.model, engine.processor, "cpu")
    assert resumed.cache_manager.fingerprint() == engine.cache_manager.fingerprint() == twin.cache_manager.fingerprint()


def test_shrink_keeps_a_part_for_recall(streamed):
    engine = streamed(20, max_cache_tokens=200, recall=50)
    engine.shrink(120)
    assert engine.eviction_config.recall_tokens == 30
    assert engine.get_cache_info()["cache_seq_length"] <= 90
    assert engine.ask(QUESTION, max_new_tokens=1, do_sample=False, recall=1)[1]["recalled"]
    engine.shrink(72)
    assert engine.eviction_config.recall_tokens == 2, "sink and newest chunk, 70 tokens, come first"


@pytest.mark.parametrize("archive", [None, "folder"])
def test_a_stream_with_dropped_tokens_resumes_as_the_undisturbed_one(streamed, partly_static, tmp_path, archive):
    """Its score of the next chunk too, which depends on which tokens the last one has kept."""
    options = dict(drop_static=0.03, count=8, max_cache_tokens=260, policy=Importance("temporal_redundancy"))
    made, twin = (streamed(9, archive=archive and tmp_path / name, **options) for name in "ab")
    if not archive:
        made.save(tmp_path / "a")
    del made
    engine = VideoStreamingInference.resume(tmp_path / "a", twin.model, twin.processor, "cpu")
    assert engine.drop_static == 0.03
    for seed in range(9, 16):
        for target in (engine, twin):
            target.append_video_chunk(partly_static(8, seed))
    assert engine.cache_manager.fingerprint() == twin.cache_manager.fingerprint()
    assert engine.get_cache_info()["tokens_dropped"] == twin.get_cache_info()["tokens_dropped"] > 0
