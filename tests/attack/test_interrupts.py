"""Real SIGINTs at random moments, in append and in ask, and a stream that goes on."""

import os
import random
import signal
import threading
import time

import pytest
import torch
from injection import ALL, SEED, copied

from kvlib import EvictionConfig

ROUNDS = 400 if ALL else 40


def interrupted(action, seconds: float) -> bool:
    """Run `action` and send this process SIGINT after `seconds`; whether it was cut off."""
    armed = threading.Event()

    def handler(*_):
        if armed.is_set():
            armed.clear()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    try:
        armed.set()
        timer.start()
        action()
        armed.clear()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        armed.clear()
        timer.join()
        time.sleep(0.001)  # a signal that is on its way finds the handler disarmed
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("mode", ["keep", "remap", "compact", "unrotated"])
@pytest.mark.parametrize("policy", ["sink_window", "uniform"])
def test_a_stream_survives_ctrl_c(engine, frames, policy, mode):
    """A chunk whose append was cut off is in or not in; in the end the stream is that of the chunks that are in."""
    draw = random.Random(f"{SEED} {policy} {mode}")
    config = EvictionConfig(160, policy=policy, position_mode=mode)
    made, twin = engine(config), engine(config)
    began = time.perf_counter()
    for seed in range(4):
        for stream in (made, twin):
            stream.append_video_chunk(frames(2, seed))
    typical = (time.perf_counter() - began) / 8
    cut = 0
    for seed in range(4, 4 + ROUNDS // 8 * 2):
        chunk, seen = frames(2, seed), made.cache_manager.chunks_seen
        before = made.cache_manager.fingerprint()
        roomy = copied(made)
        roomy.cache_manager.make_room(made.count_tokens(chunk))
        ended = copied(made)
        ended.append_video_chunk(chunk)
        cut += interrupted(lambda chunk=chunk: made.append_video_chunk(chunk), draw.uniform(0, 1.2) * typical)
        taken = made.cache_manager.chunks_seen > seen
        after = made.cache_manager.fingerprint()
        assert after == ended.cache_manager.fingerprint() if taken else after in (before, roomy.cache_manager.fingerprint())
        if not taken:
            made.append_video_chunk(chunk)
        twin.append_video_chunk(chunk)
        before = made.cache_manager.fingerprint()
        cut += interrupted(lambda: made.ask("What?", max_new_tokens=8, do_sample=False), draw.uniform(0, 1.2) * typical)
        assert made.cache_manager.fingerprint() == before, f"ATTACK_SEED={SEED}"
    assert torch.equal(made.question_logits("What?"), twin.question_logits("What?")), f"ATTACK_SEED={SEED}"
    assert cut > 0, "no signal hit"
