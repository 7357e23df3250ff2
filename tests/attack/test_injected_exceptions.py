"""An exception at any line of kvlib leaves the stream as it was, or with room made, and the stream goes on.

`ATTACK=all` raises at every executed line, once and twice in a row; otherwise at a random sample of them.
"""

import pytest
import torch
from injection import ERRORS, SEED, LineTracer, copied, points

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib.evictor import POSITION_MODES
from kvlib.policies import Importance, SinkWindow, Uniform
from kvlib.policies.scorers import SCORERS

POLICIES = [SinkWindow(), Uniform(), *map(Importance, SCORERS)]
QUESTION = "What?"


def logits(engine) -> torch.Tensor:
    """What a question sees, without and, where there is an archive, with recall."""
    recalls = (0, 2) if engine.cache_manager.archive else (0,)
    return torch.cat([engine.question_logits(QUESTION, recall=recall) for recall in recalls])


def attack(engine, action, allowed, go_on, expected, sample, salt):
    """Raise in `action(engine)` at many lines, each time in a copy: its fingerprint must be `allowed`, and after
    `go_on(copy)` its logits `expected`. Returns the number of exceptions."""
    counter, probe = LineTracer(), copied(engine)
    action(copied(engine))  # what is done once for a model
    counter.run(lambda: action(probe))
    raised = 0
    for number, at in enumerate(points(counter.count, sample, salt)):
        target, tracer = copied(engine), LineTracer(at, ERRORS[number % 2])
        error = tracer.run(lambda target=target: action(target))
        where = f"{tracer.error.__name__} at {tracer.places}, lines {at}, ATTACK_SEED={SEED}"
        assert isinstance(error, ERRORS), where
        assert not target.lock._is_owned() and not target.backbone.graphs.lock.locked(), f"a lock is held: {where}"
        assert target.cache_manager.fingerprint() in allowed, where
        go_on(target)
        assert torch.equal(logits(target), expected), where
        raised += len(tracer.places)
    return raised


def streamed(engine, frames, config, chunks=12, **options):
    made = engine(config)
    if options:
        made = VideoStreamingInference(made.model, made.processor, "cpu", config, **options)
    for seed in range(chunks):
        made.append_video_chunk(frames(2, seed))
    return made


def attack_append(engine, new, sample, salt):
    twin, roomy = copied(engine), copied(engine)
    twin.append_video_chunk(new)
    roomy.cache_manager.make_room(engine.count_tokens(new, first=not engine.cache_manager.chunks))
    allowed = {engine.cache_manager.fingerprint(), roomy.cache_manager.fingerprint()}

    def append(target):
        target.append_video_chunk(new)

    return attack(engine, append, allowed, append, logits(twin), sample, salt)


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: getattr(p, "scorer", type(p).__name__))
def test_append_with_an_eviction(engine, frames, policy, mode):
    made = streamed(engine, frames, EvictionConfig(220, policy=policy, position_mode=mode))
    before = made.cache_manager.evictor.total_evictions
    assert attack_append(made, frames(2, 99), 60, f"{policy}{mode}") > 0
    assert made.cache_manager.evictor.total_evictions == before, "the attacks ran on copies"


@pytest.mark.parametrize("mode", POSITION_MODES)
@pytest.mark.parametrize("policy", [SinkWindow(), Importance()], ids=["sink_window", "importance"])
def test_ask(engine, frames, policy, mode):
    made = streamed(engine, frames, EvictionConfig(220, policy=policy, position_mode=mode))
    same = {made.cache_manager.fingerprint()}

    def ask(target):
        target.ask(QUESTION, max_new_tokens=3, do_sample=False)

    attack(made, ask, same, lambda target: None, logits(made), 80, mode)


@pytest.mark.parametrize("mode", ["keep", "remap", "unrotated"])
def test_append_with_an_archive(engine, frames, mode):
    made = streamed(engine, frames, EvictionConfig(220, position_mode=mode, recall_tokens=40), archive="memory")
    assert attack_append(made, frames(2, 99), 60, f"archive {mode}") > 0


@pytest.mark.parametrize("mode", ["keep", "remap", "unrotated"])
def test_append_that_drops_tokens(engine, partly_static, mode):
    config = EvictionConfig(220, policy=Importance("temporal_redundancy"), position_mode=mode)
    made = streamed(engine, lambda _, seed: partly_static(8, seed), config, drop_static=0.03)
    assert attack_append(made, partly_static(8, 99), 60, f"dropped {mode}") > 0


@pytest.mark.parametrize("mode", POSITION_MODES)
def test_ask_with_recall(engine, frames, mode):
    made = streamed(engine, frames, EvictionConfig(220, position_mode=mode, recall_tokens=40), archive="memory")
    same = {made.cache_manager.fingerprint()}

    def ask(target):
        target.ask(QUESTION, max_new_tokens=2, do_sample=False, recall=2)

    attack(made, ask, same, lambda target: None, logits(made), 60, f"recall {mode}")


def test_append_that_moves_the_window_to_the_front(engine, frames):
    """Also with the moves that overlap themselves, by way of a copy."""
    made, seed = streamed(engine, frames, EvictionConfig(600, policy="uniform"), 30), 30
    while True:
        following = copied(made)
        following.append_video_chunk(frames(2, seed))
        if following.cache_manager.state.start < made.cache_manager.state.start:
            break
        made, seed = following, seed + 1
    assert attack_append(made, frames(2, seed), 150, "front") > 0


@pytest.mark.parametrize("budget", [None, 300])
def test_the_first_chunk(engine, frames, budget):
    attack_append(engine(EvictionConfig(budget) if budget else None), frames(2, 5), 50, f"first{budget}")


def test_append_that_grows_the_buffers(engine, frames):
    made = engine()
    while made.cache_manager.get_seq_length() + 512 + 18 <= made.cache_manager.state.room():
        made.append_video_chunk(frames(2, 1))
    capacity = made.cache_manager.state.room()
    following = copied(made)
    following.append_video_chunk(frames(2, 1))
    assert following.cache_manager.state.room() > capacity
    attack_append(made, frames(2, 1), 50, "growth")


def test_append_in_eight_bits(engine, frames):
    made = streamed(engine, frames, EvictionConfig(220), kv_dtype=torch.float8_e4m3fn)
    attack_append(made, frames(2, 99), 30, "8 bits")


def test_an_answer_that_needs_more_room(engine, frames):
    """The buffers grow below the answer, and are given back by whoever comes next."""
    made = streamed(engine, frames, EvictionConfig(110))
    kept = made.model.generation_config
    made.model.generation_config = type(kept)(eos_token_id=None)
    tokenizer, end = made.processor.tokenizer, made.processor.tokenizer.eos_token
    tokenizer.eos_token = None
    try:
        held, same = made.get_cache_info()["cache_bytes"], {made.cache_manager.fingerprint()}
        free = made.cache_manager.state.capacity - made.cache_manager.get_seq_length()

        def ask(target):
            target.ask("?" * (free - 24), max_new_tokens=4, do_sample=False)

        def checked(target):
            target.append_video_chunk(frames(2, 1))
            assert target.get_cache_info()["cache_bytes"] == held

        twin = copied(made)
        twin.append_video_chunk(frames(2, 1))
        attack(made, ask, same, checked, logits(twin), 30, "answer")
    finally:
        made.model.generation_config, tokenizer.eos_token = kept, end


def test_shrink(engine, frames):
    made = streamed(engine, frames, EvictionConfig(400), 20)
    smaller = copied(made)
    smaller.shrink(200)
    allowed = {made.cache_manager.fingerprint(), smaller.cache_manager.fingerprint()}

    def go_on(target):
        if target.eviction_config.max_cache_tokens > 200:
            target.shrink(200)
        target.append_video_chunk(frames(2, 1))

    go_on(smaller)
    attack(made, lambda target: target.shrink(200), allowed, go_on, logits(smaller), 50, "shrink")


def test_restore(engine, frames):
    made = streamed(engine, frames, None, 4)
    snapshot, old = made.cache_manager.take_snapshot(), made.cache_manager.fingerprint()
    expected = logits(made)
    made.append_video_chunk(frames(2, 9))
    new, counter = made.cache_manager.fingerprint(), LineTracer()
    counter.run(lambda: copied(made).cache_manager.restore_snapshot(snapshot))
    for line in range(1, counter.count + 1):
        target = copied(made)
        LineTracer([line]).run(lambda target=target: target.cache_manager.restore_snapshot(snapshot))
        assert target.cache_manager.fingerprint() in (old, new)
        target.cache_manager.restore_snapshot(snapshot)
        assert torch.equal(logits(target), expected)
