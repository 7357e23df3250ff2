"""The engine against transformers' own forward, and engines that share a model."""

import pytest
import torch
from helpers import fingerprint, next_logits, one_shot_logits, processed, scripted

from kvlib import EvictionConfig, VideoStreamingInference
from kvlib import stream as stream_module

FAR = 3 * 2**17  # positions
EXPECTED_TIMES = {  # fps: positions in time of five grids, 2 positions per second and 2 frames per grid, rounded down
    0.5: [0, 8, 16, 24, 32],
    1.0: [0, 4, 8, 12, 16],
    2.0: [0, 2, 4, 6, 8],
    3.0: [0, 1, 2, 4, 5],
    8.0: [0, 0, 1, 1, 2],
}


@pytest.mark.parametrize("sizes", [[2], [2, 4, 2], [1, 3, 6, 2]])
def test_streaming_equals_one_forward(engine, model, processor, frames, sizes):
    chunks = [frames(count, seed, 112, 168) for seed, count in enumerate(sizes)]
    streamed = engine()
    for chunk in chunks:
        streamed.append_video_chunk(chunk)
    expected = one_shot_logits(model, processor, chunks)
    torch.testing.assert_close(next_logits(streamed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("fps", "times"), EXPECTED_TIMES.items())
def test_positions_follow_the_rate_of_the_frames(engine, frames, fps, times):
    """Frames of 56 x 84 are 2 x 3 merged patches a grid; 45 text tokens come before the first chunk's and three after."""
    streamed = engine()
    chunk = streamed.encode(frames(10), fps)
    assert chunk.time_step == 2 * 2 / fps
    streamed.append_encoded(chunk)
    positions = streamed.cache_manager.positions
    assert positions[0, :45].tolist() == list(range(45))
    assert positions[0, 45:75].tolist() == [45 + time for time in times for _ in range(6)]
    assert positions[1, 45:75].tolist() == [45, 45, 45, 46, 46, 46] * 5
    assert positions[2, 45:75].tolist() == [45, 46, 47] * 10
    following = 45 + max(times[-1], 2) + 1
    assert positions[:, 75:].tolist() == [[following, following + 1, following + 2]] * 3
    assert streamed.cache_manager.next_position == following + 3


def test_the_rate_changes_the_answer(engine, frames):
    slow, fast = engine(), engine()
    slow.append_video_chunk(frames(10), fps=0.5)
    fast.append_video_chunk(frames(10), fps=8)
    assert not torch.allclose(next_logits(slow), next_logits(fast), rtol=1e-3, atol=1e-3)


def test_two_engines_on_one_model_do_not_disturb_each_other(engine, frames):
    alone = processed(engine, frames, None, 4)
    one, two = engine(), engine(EvictionConfig(110, position_mode="remap"))
    for seed in range(4):
        one.append_video_chunk(frames(2, seed))
        two.append_video_chunk(frames(4, 50 + seed, 84, 56))
        two.ask("What?", max_new_tokens=2)
    assert torch.equal(next_logits(one), next_logits(alone))


def test_the_model_is_left_as_it_was(engine, model, processor, frames):
    ids = processor.tokenizer("hello", return_tensors="pt")["input_ids"]
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    model.model.rope_deltas = None
    attributes = {key: id(value) for key, value in vars(model.model).items()}
    processed(engine, frames, EvictionConfig(110), 5).ask("What?", max_new_tokens=3)
    assert {key: id(value) for key, value in vars(model.model).items()} == attributes
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), before)
    model.model.rope_deltas = None


def test_the_first_greedy_token_is_the_likeliest_of_one_forward(engine, model, processor, frames):
    streamed, chunk = engine(), frames()
    streamed.append_video_chunk(chunk)
    token = one_shot_logits(model, processor, [chunk]).argmax()
    answer, metrics = streamed.ask("What?", max_new_tokens=1, do_sample=False)
    assert answer == processor.tokenizer.decode([token], skip_special_tokens=True).strip()
    assert metrics["new_tokens"] == 1


def test_every_token_of_an_answer_sees_those_before_it(engine, model, processor, frames):
    """The answer's forwards end in the same states as one forward over question and answer."""
    streamed, tokens, seen = processed(engine, frames, EvictionConfig(110), 6), [10, 11, 12, 13], []
    text = processor.tokenizer.decode(tokens)
    with scripted(model, *({token: 0.0} for token in tokens)):
        hook = model.model.language_model.layers[2].mlp.register_forward_hook(lambda _m, _a, out: seen.append(out[0, -1]))
        assert streamed.ask("What?", max_new_tokens=4, do_sample=False)[0] == text.strip()
        streamed.question_logits("What?")
        hook.remove()
    assert len(seen) == 5
    torch.testing.assert_close(seen[0], seen[-1])
    manager, language = streamed.cache_manager, model.model.language_model
    ids = processor.tokenizer(f"<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n{text}")["input_ids"][:-1]
    tail, whole = manager.tail(), []
    hook = language.layers[2].mlp.register_forward_hook(lambda _m, _a, out: whole.append(out[0, -3:]))
    with torch.no_grad():
        at = torch.arange(len(ids)).expand(3, -1) + manager.next_position
        streamed.backbone.language(tail.layers, model.get_input_embeddings()(torch.tensor([ids])), at)
    hook.remove()
    torch.testing.assert_close(torch.stack(seen[1:4]), whole[0], rtol=1e-4, atol=1e-4)


def test_engines_can_share_what_the_vision_tower_saw(engine, frames):
    alone, leader, follower = engine(), engine(), engine(EvictionConfig(110))
    for seed in range(6):
        chunk = leader.encode(frames(2, seed))
        alone.append_video_chunk(frames(2, seed))
        leader.append_encoded(chunk)
        follower.append_encoded(chunk)
    assert torch.equal(next_logits(alone), next_logits(leader))
    assert follower.cache_manager.evictor.total_evictions > 0
    before = fingerprint(leader)
    with pytest.raises(ValueError, match="first chunk begins with the system turn"):
        leader.append_encoded(engine().encode(frames()))
    with pytest.raises(ValueError, match="first chunk begins with the system turn"):
        engine().append_encoded(chunk)
    assert fingerprint(leader) == before


def test_the_default_question_is_the_briefs():
    assert stream_module.DEFAULT_QUESTION.startswith("Read all text, lyrics, subtitles, or captions")


def test_a_model_in_a_wrapper_is_unwrapped(model, processor, frames, engine):
    class Wrapped:
        def get_base_model(self):
            return model

    streamed = VideoStreamingInference(Wrapped(), processor, "cpu")
    streamed.append_video_chunk(frames())
    assert torch.equal(next_logits(streamed), next_logits(processed(engine, frames, None, 1)))


def test_counted_tokens_are_those_that_are_stored(engine, frames):
    streamed = engine()
    for seed, count in enumerate((2, 3, 6)):
        expected = streamed.count_tokens(frames(count, seed, 84, 140), first=seed == 0)
        before = streamed.cache_manager.get_seq_length()
        assert streamed.append_video_chunk(frames(count, seed, 84, 140))["cache_seq_length"] - before == expected


@pytest.mark.parametrize("policy", ["sink_window", "uniform"])
def test_remapped_positions_grow_without_end_and_without_harm(engine, frames, policy):
    """At 0.002 frames per second a temporal grid is 2000 positions after the last; a chunk of eight frames has four."""
    remap, compact = (engine(EvictionConfig(400, policy=policy, position_mode=mode)) for mode in ("remap", "compact"))
    held, compared = set(), 0
    for number in range(80):
        chunk = remap.encode(frames(8, number), fps=0.002)
        info = remap.append_encoded(chunk)
        compact.append_encoded(chunk)
        assert [span.index for span in remap.cache_manager.chunks] == [span.index for span in compact.cache_manager.chunks]
        if remap.cache_manager.evictor.total_evictions > 20:
            held.add(info["cache_bytes"])
        if number % 8 == 7:
            torch.testing.assert_close(next_logits(remap), next_logits(compact), rtol=1e-4, atol=1e-4)
            compared += 1
    torch.testing.assert_close(next_logits(remap), next_logits(compact), rtol=1e-4, atol=1e-4)
    assert compared > 5
    assert compact.cache_manager.next_position < 2**17
    if policy == "sink_window":  # "uniform" gives up chunks of which copies are kept, and moves the window
        assert remap.cache_manager.next_position > FAR
        assert len(held) == 1, "bytes are constant once the budget is full"
