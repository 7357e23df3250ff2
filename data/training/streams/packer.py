"""Streams with their questions as arrays, in exactly the turns and positions of `kvlib`."""

import numpy as np
import torch

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
BEFORE, AFTER = "<|im_start|>user\n<|vision_start|>", "<|vision_end|><|im_end|>\n"


class Packer:
    """Composes streams with questions into the arrays of a batch, with the turns and M-RoPE positions of `kvlib`."""

    def __init__(self, tokenizer):
        self.tokenizer, self.prompts, self.prefixes = tokenizer, {}, {}
        self.byte_ids = self._byte_ids()
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.video = tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def _byte_ids(self) -> dict[str, int]:
        """The id of every character's single-byte token: answers are spelt without merges."""
        alphabet = {
            c: self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(c)[0][0] for c in map(chr, range(33, 127))
        }
        alphabet |= {" ": "\u0120", "\n": "\u010a"}
        return {c: self.tokenizer.convert_tokens_to_ids(symbol) for c, symbol in alphabet.items()}

    def tokens(self, text: str) -> list[int]:
        if text not in self.prompts:
            self.prompts[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.prompts[text]

    def spell(self, text: str) -> list[int]:
        return [self.byte_ids[c] for c in text]

    def prefix(self, grid: tuple[int, int], chunks: int, grids_per_chunk: int, step: int):
        """The stream without questions: ids int64 [n], positions int64 [3, n], and for each chunk (index after its last token,
        next position). `step` is the distance of two temporal grids in positions."""
        key = grid, chunks, grids_per_chunk, step
        if key in self.prefixes:
            return self.prefixes[key]
        rows, columns = grid
        ids, positions, ends, at = [], [], [], 0

        def put(tokens):
            nonlocal at
            ids.extend(tokens)
            positions.extend((p, p, p) for p in range(at, at + len(tokens)))
            at += len(tokens)

        put(self.tokens(SYSTEM))
        for _ in range(chunks):
            put(self.tokens(BEFORE))
            block = [
                (at + t * step, at + row, at + column)
                for t in range(grids_per_chunk)
                for row in range(rows)
                for column in range(columns)
            ]
            ids.extend([self.video] * len(block))
            positions.extend(block)
            at = max(map(max, block)) + 1
            put(self.tokens(AFTER))
            ends.append((len(ids), at))
        self.prefixes[key] = np.array(ids), np.array(positions).T, ends
        return self.prefixes[key]

    def branch(self, question: str, answer: str) -> tuple[list[int], int]:
        """Token ids of a question with its answer, and the index of the answer's first token."""
        prompt = self.tokens(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        return prompt + self.spell(answer) + [self.end], len(prompt)

    def batch(self, streams: list[dict]) -> dict[str, torch.Tensor]:
        """The arrays of a batch of B streams, each given by its `prefix` (all of one shape) and its `branches`
        [(chunk index, kind, question, answer)]. L is the length of the longest stream with its branches, rounded up to a
        multiple of 16. All arrays are int64:

        ids [B, L], positions [3, B, L];
        branch [B, L]: 0 for the stream, -1 for padding, else the number of the branch;
        limit [B, L]: how many tokens of the stream a token may attend to;
        predict [n]: flat indices of the hidden states that predict the n answer tokens; target [n]: those tokens;
        owner [n]: the branch that each answer token belongs to, numbered over the batch.

        Also `kinds`, the kind of every branch, and `branched`, False when every stream has one branch at its end: plain causal
        attention is the same then.
        """
        ids0, positions0, ends = streams[0]["prefix"]
        rows = [[(chunk, kind, *self.branch(*asked)) for chunk, kind, *asked in stream["branches"]] for stream in streams]
        tail = max(sum(len(tokens) for *_, tokens, _ in row) for row in rows)
        start, length, count = len(ids0), -(-(len(ids0) + tail) // 16) * 16, len(streams)
        ids = np.full((count, length), self.pad)
        positions = np.zeros((3, count, length), int)
        branch, limit = np.full((count, length), -1), np.full((count, length), start)
        ids[:, :start], positions[:, :, :start], branch[:, :start] = ids0, positions0[:, None], 0
        predict, target, owner, kinds = [], [], [], []
        for row, branches in enumerate(rows):
            at = start
            for number, (chunk, kind, tokens, first) in enumerate(branches, 1):
                end = at + len(tokens)
                ids[row, at:end], branch[row, at:end] = tokens, number
                limit[row, at:end] = ends[chunk][0]
                positions[:, row, at:end] = np.arange(ends[chunk][1], ends[chunk][1] + len(tokens))
                predict.extend(range(row * length + at + first - 1, row * length + end - 1))
                target.extend(tokens[first:])
                owner.extend([len(kinds)] * (len(tokens) - first))
                kinds.append(kind)
                at = end
        arrays = dict(ids=ids, positions=positions, branch=branch, limit=limit)
        arrays |= dict(predict=np.array(predict), target=np.array(target), owner=np.array(owner))
        branched = any([chunk for chunk, *_ in stream["branches"]] != [len(ends) - 1] for stream in streams)
        return {k: torch.from_numpy(v) for k, v in arrays.items()} | {"kinds": kinds, "branched": branched}
