"""How an answer is decoded: sampling, where it ends, and its metrics, by a clock and a head under control."""

from types import SimpleNamespace

import pytest
import torch
from helpers import processed, scripted

from kvlib import generation
from kvlib import stream as stream_module


@pytest.fixture
def streamed(engine, frames):
    return processed(engine, frames, None, 2)


@pytest.fixture
def letters(processor):
    """Token ids of two letters that an answer shows as they are."""
    return [processor.tokenizer(letter)["input_ids"][0] for letter in "ab"]


def test_a_seed_repeats_a_sampled_answer_and_leaves_torch_alone(streamed):
    state, options = torch.get_rng_state(), dict(max_new_tokens=20, temperature=2.0)
    answers = {seed: streamed.ask("What?", seed=seed, **options)[0] for seed in range(4)}
    assert len(set(answers.values())) > 1
    assert streamed.ask("What?", seed=2, **options)[0] == answers[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("temperature", "share"), [(0.5, 81 / 82), (1.0, 9 / 10), (2.0, 3 / 4), (1e6, 1 / 2)])
def test_tokens_are_drawn_from_the_softmax_of_logits_over_temperature(streamed, model, letters, temperature, share):
    """The odds of 9 to 1 at temperature 1 are 9 ** (1 / T) to 1; four standard deviations of 300 draws are allowed."""
    with scripted(model, {letters[0]: torch.tensor(9.0).log().item(), letters[1]: 0.0}):
        answer, _ = streamed.ask("What?", max_new_tokens=300, temperature=temperature, seed=0)
    assert len(answer) == 300
    assert answer.count("a") / 300 == pytest.approx(share, abs=4 * (share * (1 - share) / 300) ** 0.5)


def test_a_low_temperature_takes_the_likeliest(streamed):
    greedy = streamed.ask("What?", max_new_tokens=12, do_sample=False)[0]
    assert streamed.ask("What?", max_new_tokens=12, temperature=1e-4, seed=0)[0] == greedy
    assert streamed.ask("What?", max_new_tokens=12, do_sample=False, temperature=50.0)[0] == greedy


@pytest.mark.parametrize(
    ("eos", "tokens"),
    [(12, 2), ([12], 2), ([12, 99], 2), ([99, 12], 2), ([13, 11, 99], 1), ([99, 13], 3), (None, 4), ([99], 4)],
)
def test_every_end_token_of_the_checkpoint_ends_an_answer(streamed, model, processor, monkeypatch, eos, tokens):
    monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
    script = [10, 11, 12, 13, processor.tokenizer.eos_token_id, 14]
    with scripted(model, *({token: 0.0} for token in script)):
        answer, metrics = streamed.ask("What?", max_new_tokens=6, do_sample=False)
    assert metrics["new_tokens"] == tokens
    assert answer == processor.tokenizer.decode(script[:tokens]).strip()


def test_an_answer_that_ends_at_once_is_empty(streamed, model, processor):
    with scripted(model, {processor.tokenizer.eos_token_id: 0.0}):
        answer, metrics = streamed.ask("What?", max_new_tokens=6)
    assert (answer, metrics["new_tokens"]) == ("", 0)
    assert metrics["decode_tokens_per_s"] != metrics["decode_tokens_per_s"], "not a number"


@pytest.mark.parametrize(("name", "value"), [("repetition_penalty", 50.0), ("top_k", 1), ("top_p", 1e-6)])
@pytest.mark.parametrize("sample", [False, True])
def test_nothing_else_of_the_generation_config_is_applied(streamed, model, monkeypatch, name, value, sample):
    options = dict(max_new_tokens=16, do_sample=sample, temperature=1.5, seed=1)
    before = streamed.ask("What?", **options)[0]
    monkeypatch.setattr(model.generation_config, name, value)
    assert streamed.ask("What?", **options)[0] == before


class Clock:
    """A clock that stands still but for `pass_in`: a forward of many tokens takes `prefill` seconds, of one token `decode`."""

    def __init__(self, prefill: float, decode: float):
        self.now, self.prefill, self.decode = 100.0, prefill, decode

    def perf_counter(self) -> float:
        return self.now

    def replace_time(self, monkeypatch) -> None:
        for module in (stream_module, generation):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=self.perf_counter))

    def pass_in(self, _module, inputs) -> None:
        self.now += self.prefill if inputs[0].shape[1] > 1 else self.decode


@pytest.mark.parametrize("new", [2, 5, 9])
def test_metrics_count_the_whole_prompt_and_one_step_less_than_tokens(streamed, model, monkeypatch, new):
    clock = Clock(prefill=0.2, decode=0.05)
    clock.replace_time(monkeypatch)
    hook = model.model.language_model.layers[0].mlp.register_forward_pre_hook(clock.pass_in)
    with scripted(model, {10: 0.0}):
        _, metrics = streamed.ask("What?", max_new_tokens=new, do_sample=False)
    hook.remove()
    assert metrics["new_tokens"] == new
    assert metrics["prompt_tokens"] == 6 + 5 + 13  # "<|im_start|>user\n", the question, "<|im_end|>\n<|im_start|>assistant\n"
    assert metrics["ttft"] == pytest.approx(0.2)
    assert metrics["decode_tokens_per_s"] == pytest.approx(20.0)


def test_ttft_begins_with_the_question(streamed, model, monkeypatch):
    """Also what is done before the forward is waiting: here the tokenizer takes half a second."""
    clock, original = Clock(prefill=0.2, decode=0.05), stream_module.question_tokens

    def slow(*arguments):
        clock.now += 0.5
        return original(*arguments)

    monkeypatch.setattr(stream_module, "question_tokens", slow)
    clock.replace_time(monkeypatch)
    hook = model.model.language_model.layers[0].mlp.register_forward_pre_hook(clock.pass_in)
    with scripted(model, {10: 0.0}):
        _, metrics = streamed.ask("What?", max_new_tokens=1, do_sample=False)
    hook.remove()
    assert metrics["ttft"] == pytest.approx(0.7)
    assert metrics["decode_tokens_per_s"] != metrics["decode_tokens_per_s"], "one token has no rate"
