"""The faults of `mutations.py`: in which file which text is replaced by which, and the tests that should notice."""

from dataclasses import dataclass

ENGINE = ("tests/engine", "tests/ops")
ATTACK = ("tests/attack",)
INPUT = ("tests/input", *ENGINE)


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = ENGINE


MUTATIONS = [
    Mutation("fps ignored", "stream.py", "settings.temporal_patch_size / fps", "settings.temporal_patch_size / 2.0"),
    Mutation("floor before the product", "ops/positions.py", "* time_step).floor()", "* int(time_step)).floor()"),
    Mutation("window_size ignored", "state.py", "if window and self.counts.sink_chunks else most", "if False else most"),
    Mutation("only one end token", "stream.py", "stops if isinstance(stops, list)", "stops[:1] if isinstance(stops, list)"),
    Mutation(
        "clock of TTFT started late",
        "stream.py",
        "advance, self._stop_tokens(), sampling)",
        "advance, self._stop_tokens(), __import__('dataclasses').replace(sampling, began=time.perf_counter()))",
    ),
    Mutation("tokens per second off by one", "generation.py", "rate = steps / decoding", "rate = len(new) / decoding"),
    Mutation(
        "un-rotated keys scored as rotated", "evictor.py", "self.inverse_frequencies * rotated", "self.inverse_frequencies"
    ),
    Mutation("temperature ignored", "generation.py", "logits.float() / temperature", "logits.float()"),
    Mutation("seed ignored", "generation.py", "if self.seed is None else", "if True else"),
    Mutation("max_new_tokens of any type", "generation.py", "or not isinstance(self.max_new_tokens, int)", ""),
    Mutation("larger side moved", "steps.py", "if first <= behind:", "if first > behind:"),
    Mutation("slack 0", "manager.py", "SLACK, MOST_SLACK = 0.1,", "SLACK, MOST_SLACK = 0.0,"),
    Mutation("growth by nothing", "cache.py", "GROWTH = 1.25", "GROWTH = 1.0"),
    Mutation("snapshot older than an eviction restored", "manager.py", "any(a is not b for", "any(a.index < 0 for"),
    Mutation(
        "code between commit and return",
        "manager.py",
        "return self._commit(made, self.info(made))",
        "self.current.state = made\n        info = self.info(made)\n        return info",
        ATTACK,
    ),
    Mutation(
        "step dropped before it is done",
        "state.py",
        "            following = step.run(state)\n",
        "            self.state = replace(state, pending=tuple(others))\n            following = step.run(state)\n",
        ATTACK,
    ),
    Mutation(
        "overlapping move without a copy in the state",
        "steps.py",
        "        return Write(self.layer, self.target, moved.clone())",
        "        target = state.buffers[self.layer]\n        held = moved.clone()\n"
        "        target[..., self.target : self.target + self.length, :] = held\n        done = None\n        return done",
        ATTACK,
    ),
    Mutation("re-rotated from the last keys", "steps.py", "if chunk.index not in originals:", "if True:"),
    Mutation("keys not re-rotated", "steps.py", "        if start == chunk.start:\n", "        if True:\n"),
    Mutation("rotated the wrong way", "steps.py", "rotation(start - chunk.origin", "rotation(chunk.origin - start"),
    Mutation("rotated from the present start", "steps.py", "rotation(start - chunk.origin", "rotation(start - chunk.start"),
    Mutation("next position not moved", "steps.py", "next_position=chunks[-1].stop)", "next_position=state.next_position)"),
    Mutation("holes are closed in keep", "evictor.py", '    if mode == "keep":\n', '    if mode == "never":\n'),
    Mutation("first chunk of the sink evicted", "policies/sink_window.py", "return sink", "return 0"),
    Mutation("a policy's choice is not checked", "evictor.py", "if choice not in range(sink, len(stays) - 1):", "if False:"),
    Mutation("eviction_interval ignored", "evictor.py", "incoming * state.config.eviction_interval", "incoming"),
    Mutation("budget exceeded by a chunk", "evictor.py", "(stored + incoming > limit or (", "(stored > limit or ("),
    Mutation("sink_size ignored", "state.py", "self.sink_size < least_sink and", "False and"),
    Mutation("uniform keeps the densest", "policies/uniform.py", "return min(candidates", "return max(candidates"),
    Mutation("importance forgets the best", "policies/importance.py", "return min(candidates", "return max(candidates"),
    Mutation("no recent window", "policies/history.py", "<= recent_tokens", "<= 0"),
    Mutation("surprise reversed", "policies/scorers.py", "return 1 - _mean(cosine", "return _mean(cosine"),
    Mutation("redundancy sees positions", "policies/scorers.py", "rotate_keys(old, shift,", "rotate_keys(old, 0,"),
    Mutation("special tokens in a question", "prompts.py", "text)] if added else []", "text)] if False else []"),
    Mutation("a question is stored", "manager.py", "        if not is_new_chunk:\n", "        if False:\n"),
    Mutation(
        "memory of an answer kept",
        "stream.py",
        "        finally:\n            manager.cache.trim()",
        "        finally:\n            pass",
    ),
    Mutation(
        "room for the whole answer at once",
        "stream.py",
        "cache, tail, decode = self.cache_manager.cache, self._tail(prompt), None",
        "cache, tail, decode = self.cache_manager.cache, self._tail(prompt), None\n        cache.reserve(sampling.max_new_tokens, tail)",
    ),
    Mutation("a question of any length", "stream.py", "len(tokens) > free:", "len(tokens) > 10**9:"),
    Mutation("a token sees the next", "ops/attention.py", "tril(past)", "tril(past + 1)"),
    Mutation(
        "past and chunk merged the wrong way", "ops/attention.py", "sigmoid(sums - other_sums)", "sigmoid(other_sums - sums)"
    ),
    Mutation(
        "YaRN's factor in un-rotated keys",
        "ops/positions.py",
        "rotary.attention_scaling if scaled else 1.0",
        "rotary.attention_scaling",
    ),
    Mutation(
        "angles in fp32",
        "ops/positions.py",
        "positions[:, :, None].double() * rotary.inv_freq.to(positions.device).double()",
        "positions[:, :, None].float() * rotary.inv_freq.to(positions.device).float()",
    ),
    Mutation(
        "weights of adapters not applied",
        "ops/fused.py",
        'return type(module) is kind and not hasattr(module, "_hf_hook")',
        'return hasattr(module, "weight")',
    ),
    Mutation("calls of one engine do not queue", "stream.py", "with engine.lock: return method", "return method"),
    Mutation("8 bits overflow", "ops/storage.py", "    if dtype == EIGHT_BIT:\n", "    if False:\n"),
    Mutation(
        "shrink keeps the memory",
        "manager.py",
        "capacity=_capacity(max_cache_tokens))\n        self.cache.trim()",
        "capacity=_capacity(max_cache_tokens))",
    ),
    Mutation("shrink below sink and newest chunk", "manager.py", "if max_cache_tokens < max(1, least):", "if False:"),
    Mutation(
        "every vision layer sees the whole frame", "ops/vision.py", "number in visual.fullatt_block_indexes", "number >= 0"
    ),
    Mutation(
        "text after a block placed by time only",
        "ops/positions.py",
        "stop = int(block.max()) + 1",
        "stop = int(block[0].max()) + 1",
    ),
    Mutation(
        "the fingerprint sees no values",
        "manager.py",
        "(buffer[..., state.start : state.stop, :]",
        "(buffer[:1, ..., state.start : state.stop, :]",
    ),
    Mutation(
        "engines are freed by the garbage collector only",
        "cache.py",
        "return [StreamLayer(self, index) for index in range(len(self.buffers))]",
        "self.kept = [StreamLayer(self, index) for index in range(len(self.buffers))]\n        return self.kept",
    ),
    Mutation("graphs of no bound", "ops/graphs.py", "while self._bytes() > self.max_bytes:", "while False:"),
    Mutation(
        "graphs most recently used go first",
        "ops/graphs.py",
        "                self._idle.popitem(last=False)",
        "                self._idle.popitem()",
    ),
    Mutation("a graph in two hands", "ops/graphs.py", "return graphs.pop()", "return graphs[-1]"),
]
