"""A stream in a folder goes on in another process as if it had never stopped."""

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import QUESTION

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.archive.manifest import numbers_in, runs_of
from kvlib.evictor import POSITION_MODES
from kvlib.policies import Importance

SLOW_ROUNDS = 30 if os.environ.get("ATTACK") == "all" else 4
CHILD = """
import sys
import torch
from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.lab.study.runs import load
torch.set_num_threads(1)
model, processor = load(sys.argv[1], torch.device("cpu"))
engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(500), archive=sys.argv[2])
frames = torch.randint(0, 256, (400, 2, 56, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
for number, chunk in enumerate(frames):
    engine.append_video_chunk(chunk)
    print(number + 1, flush=True)
"""


def resumed(engine, folder) -> VideoStreamingInference:
    return VideoStreamingInference.resume(folder, engine.model, engine.processor, "cpu")


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("policy", ["sink_window", "uniform", Importance("surprise")], ids=["window", "uniform", "surprise"])
def test_a_resumed_stream_is_the_undisturbed_one(streamed, frames, tmp_path, mode, policy):
    engine, twin = (streamed(25, mode, policy=policy, archive=tmp_path / name) for name in "ab")
    del engine
    engine = resumed(twin, tmp_path / "a")
    assert engine.cache_manager.fingerprint() == twin.cache_manager.fingerprint()
    asked = dict(max_new_tokens=5, do_sample=False, recall=2)
    assert engine.ask(QUESTION, **asked)[0] == twin.ask(QUESTION, **asked)[0]
    for seed in range(25, 32):
        for target in (engine, twin):
            target.append_video_chunk(frames(2, seed))
    assert engine.cache_manager.fingerprint() == twin.cache_manager.fingerprint()
    assert torch.equal(engine.question_logits(QUESTION, recall=2), twin.question_logits(QUESTION, recall=2))
    again = resumed(twin, tmp_path / "a")
    assert again.cache_manager.fingerprint() == twin.cache_manager.fingerprint(), "the resumed stream goes on writing"


def test_eight_bit_streams_resume(streamed, tmp_path):
    engine = streamed(12, kv_dtype=torch.float8_e4m3fn, archive=tmp_path / "a")
    other = resumed(engine, tmp_path / "a")
    assert other.cache_manager.cache.stored_dtype == torch.float8_e4m3fn
    assert other.cache_manager.fingerprint() == engine.cache_manager.fingerprint()


@pytest.mark.parametrize("archive", [None, "memory", "folder"])
def test_save_at_any_moment(streamed, frames, tmp_path, archive):
    engine = streamed(17, archive=tmp_path / "own" if archive == "folder" else archive)
    engine.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds files already"):
        engine.save(tmp_path / "saved")
    other = resumed(engine, tmp_path / "saved")
    for seed in range(17, 20):
        for target in (engine, other):
            target.append_video_chunk(frames(2, seed))
    assert other.cache_manager.fingerprint() == engine.cache_manager.fingerprint()
    if archive:
        assert torch.equal(engine.question_logits(QUESTION, recall=2), other.question_logits(QUESTION, recall=2))
    else:
        assert other.cache_manager.archive is None


def test_save_into_the_own_folder_and_of_an_unbounded_stream(streamed, engine, frames, tmp_path):
    made = streamed(9, archive=tmp_path / "own")
    made.shrink(120)
    made.save(tmp_path / "own")
    assert resumed(made, tmp_path / "own").cache_manager.fingerprint() == made.cache_manager.fingerprint()
    unbounded = engine(None)
    unbounded.save(tmp_path / "empty")
    assert resumed(unbounded, tmp_path / "empty").cache_manager.fingerprint() == unbounded.cache_manager.fingerprint()
    for seed in range(40):  # its buffers have grown
        unbounded.append_video_chunk(frames(2, seed))
    unbounded.save(tmp_path / "long")
    assert resumed(unbounded, tmp_path / "long").cache_manager.fingerprint() == unbounded.cache_manager.fingerprint()


def test_a_stream_with_a_limit_resumes_as_the_undisturbed_one(model, processor, frames, tmp_path):
    """What was dropped for the limit stays dropped, also when the process ended before the file was deleted."""
    limit, config = 12 * 16 * 3 * 2 * 2 * 16 * 4, EvictionConfig(160, policy="uniform", recall_tokens=40)
    made = [VideoStreamingInference(model, processor, "cpu", config, None, tmp_path / name, limit) for name in "ab"]
    for seed in range(30):
        for engine in made:
            engine.append_video_chunk(frames(2, seed))
        if seed > 18:
            other, twin = resumed(made[0], tmp_path / "a"), made[1]
            assert other.cache_manager.fingerprint() == twin.cache_manager.fingerprint()
            files = len(list((tmp_path / "a").glob("chunk-*.safetensors")))
            assert files == other.get_cache_info()["archived_chunks"] < 30
            made[0] = other
    assert torch.equal(made[0].question_logits(QUESTION, recall=2), made[1].question_logits(QUESTION, recall=2))
    assert made[0].get_cache_info()["archive_dropped"] > 10


def test_a_saved_stream_in_memory_needs_its_files_no_more(streamed, tmp_path):
    engine = streamed(20)
    engine.save(tmp_path / "saved")
    other = resumed(engine, tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")
    assert other.cache_manager.fingerprint() == engine.cache_manager.fingerprint()
    assert torch.equal(engine.question_logits(QUESTION, recall=2), other.question_logits(QUESTION, recall=2))


def test_an_engine_that_lost_its_folder_does_not_write_there(streamed, frames, tmp_path):
    first = streamed(10, archive=tmp_path / "a")
    second = resumed(first, tmp_path / "a")
    second.append_video_chunk(frames(2, 10))
    with pytest.raises(OSError, match="another engine has gone on"):
        first.save(tmp_path / "a")
    assert resumed(first, tmp_path / "a").cache_manager.fingerprint() == second.cache_manager.fingerprint()


def test_a_stream_whose_archive_has_failed_is_saved_elsewhere(streamed, frames, tmp_path, monkeypatch):
    """Its own folder lacks chunks: a manifest that names them could not be resumed."""
    engine = streamed(10, archive=tmp_path / "a")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvlib.archive.places.save_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        engine.append_video_chunk(frames(2, 10))
    monkeypatch.undo()
    with pytest.raises(OSError, match="has failed .*another folder"):
        engine.save(tmp_path / "a")
    assert resumed(engine, tmp_path / "a").cache_manager.chunks_seen == 10
    engine.save(tmp_path / "b")
    assert resumed(engine, tmp_path / "b").cache_manager.chunks_seen == 11


def test_a_policy_that_cannot_be_written_leaves_no_folder(model, processor, frames, tmp_path):
    class Own:
        def victim(self, chunks, sink, window):
            return sink

    engine = VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, policy=Own()))
    engine.append_video_chunk(frames(2, 0))
    with pytest.raises(ValueError, match="cannot be written to a folder"):
        engine.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_numbers_as_runs():
    for numbers in ([], [0], [0, 1, 2], [0, 4, 5, 9, 10, 11]):
        assert numbers_in(runs_of(numbers)) == set(numbers)
    assert runs_of([0, 4, 5, 9, 10, 11]) == [[0, 0], [4, 5], [9, 11]]


def test_who_resumes_owns_the_folder(streamed, frames, tmp_path):
    first = streamed(10, archive=tmp_path / "a")
    second = resumed(first, tmp_path / "a")
    second.append_video_chunk(frames(2, 10))
    with pytest.warns(UserWarning, match="another engine has gone on"):
        first.append_video_chunk(frames(2, 99))
    assert resumed(first, tmp_path / "a").cache_manager.fingerprint() == second.cache_manager.fingerprint()


def test_folders_and_models_that_do_not_fit(streamed, tmp_path):
    engine = streamed(5, archive=tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="give a folder that an engine has written"):
        resumed(engine, tmp_path / "nowhere")
    other = copy.deepcopy(engine.model)
    for change in ("weights", "dtype"):
        if change == "weights":
            other.model.language_model.layers[1].mlp.up_proj.weight.data[:] += 0.01
        else:
            other = copy.deepcopy(engine.model).bfloat16()
        with pytest.raises(ValueError, match="belongs to another model"):
            VideoStreamingInference.resume(tmp_path / "a", other, engine.processor, "cpu")
    manifest = tmp_path / "a/stream.json"
    text = manifest.read_text()
    for damaged, message in (
        (text[:100], "is damaged"),
        ("[]", "is damaged"),
        (text.replace('"version": 3', '"version": 9'), "9"),
    ):
        manifest.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            resumed(engine, tmp_path / "a")


def test_a_policy_that_cannot_be_written_is_refused(model, processor, tmp_path):
    class Own:
        def victim(self, chunks, sink, window):
            return sink

    with pytest.raises(ValueError, match="cannot be written to a folder"):
        VideoStreamingInference(model, processor, "cpu", EvictionConfig(160, policy=Own()), archive=tmp_path / "a")


@pytest.mark.parametrize("moment", ["put", "commit", "between"])
def test_a_crash_between_the_files_leaves_the_stream_as_of_the_last_chunk(streamed, frames, tmp_path, monkeypatch, moment):
    """The folder is copied at every moment at which files have changed; each copy can be resumed."""
    engine, folder, copies = streamed(9, archive=tmp_path / "a"), tmp_path / "a", []
    real = os.replace

    def replace(source, target):
        if moment == "put":
            cut = Path(source).read_bytes()
            Path(source).write_bytes(cut[: len(cut) // 2])  # as when the process dies while it writes
            copies.append(shutil.copytree(folder, tmp_path / f"copy{len(copies)}"))
            Path(source).write_bytes(cut)
        real(source, target)
        if moment == "between":
            copies.append(shutil.copytree(folder, tmp_path / f"copy{len(copies)}"))

    before = engine.cache_manager.fingerprint()
    monkeypatch.setattr("kvlib.archive.places.os.replace", replace)
    engine.append_video_chunk(frames(2, 9))
    monkeypatch.undo()
    after = engine.cache_manager.fingerprint()
    if moment == "commit":
        copies.append(shutil.copytree(folder, tmp_path / "copy"))
    expected = {"put": [before, before], "between": [before, after], "commit": [after]}[moment]
    assert [resumed(engine, copied).cache_manager.fingerprint() for copied in copies] == expected
    assert not [*Path(copies[0]).glob("*.unfinished")], "what was not finished is cleaned away"


def test_a_chunk_that_failed_after_it_was_written_is_written_again(streamed, frames, tmp_path, monkeypatch):
    """The folder was one chunk ahead of the stream; another chunk takes that place."""
    engine, twin = streamed(9, archive=tmp_path / "a"), streamed(9)
    manager = engine.cache_manager

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(manager, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.append_video_chunk(frames(2, 77))
    monkeypatch.undo()
    assert json.loads((tmp_path / "a/stream.json").read_text())["chunks_seen"] == 10 and manager.chunks_seen == 9
    for target in (engine, twin):
        target.append_video_chunk(frames(2, 9))
    fingerprints = {target.cache_manager.fingerprint() for target in (engine, twin, resumed(engine, tmp_path / "a"))}
    assert len(fingerprints) == 1


@pytest.fixture
def one_thread():
    """Sums of floating point numbers depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_kill_9_at_random_moments(tmp_path, one_thread):
    """Real processes on the embedded reader: the stream stands as of its last chunk, and equals an undisturbed one."""
    from kvlib.lab.report import paths
    from kvlib.lab.study.runs import load

    reader = str(paths.READER)
    model, processor = load(reader, torch.device("cpu"))
    frames = torch.randint(0, 256, (400, 2, 56, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draw, states = random.Random(0), {}
    twin = VideoStreamingInference(model, processor, "cpu", EvictionConfig(500), archive="memory")
    for round_ in range(SLOW_ROUNDS):
        folder = tmp_path / str(round_)
        child = subprocess.Popen([sys.executable, "-c", CHILD, reader, folder], stdout=subprocess.PIPE, text=True)
        wanted = draw.randint(2, 25)
        said = 0
        while said < wanted:
            said = int(child.stdout.readline())
        time.sleep(draw.uniform(0, 0.08))
        os.kill(child.pid, signal.SIGKILL)
        rest = child.communicate()[0].split()
        said = int(rest[-1]) if rest else said
        engine = VideoStreamingInference.resume(folder, model, processor, "cpu")
        seen = engine.cache_manager.chunks_seen
        assert said <= seen <= said + 1
        while twin.cache_manager.chunks_seen < 60 and len(states) < 60:
            twin.append_video_chunk(frames[twin.cache_manager.chunks_seen])
            states[twin.cache_manager.chunks_seen] = twin.cache_manager.fingerprint()
        assert engine.cache_manager.fingerprint() == states[seen]
        shutil.rmtree(folder)
