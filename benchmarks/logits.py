"""How exact the logits are: this library and the plain loop in the model's dtype, against transformers in fp32."""

import internals
import torch
from clock import free_memory
from methods import FPS, QUESTION, PlainLoop, random_frames

from kvlib import VideoStreamingInference
from kvlib.ops.positions import text_positions

ANSWER_TOKENS = 5


def logits_against_fp32(model, processor, device: torch.device, size: tuple[int, int]) -> dict:
    """The errors (`compared`) of the logits after three chunks of 4 frames of `size` (height, width) and a question: of "kvlib"
    and of the "plain" loop, against the plain loop in fp32 with the same weights."""
    frames = [random_frames((4, *size), seed) for seed in range(3)]
    found = {}
    for name in ("kvlib", "plain", "fp32"):
        chosen = copy_in_fp32(model) if name == "fp32" else model
        if name == "kvlib":
            engine = VideoStreamingInference(chosen, processor, device)
            for chunk in frames:
                engine.append_video_chunk(chunk, FPS)
            rows = internals.logits_of_an_answer(engine, QUESTION, ANSWER_TOKENS)
            tokens = [row.argmax(-1, keepdim=True) for row in rows[:-1]]
        else:
            rows = replay(PlainLoop(chosen, processor, device), frames, tokens)
        found[name] = torch.cat(rows).float().cpu()
        del chosen
        free_memory()
    exact = found.pop("fp32")
    return {name: compared(rows, exact) for name, rows in found.items()}


def replay(loop: PlainLoop, frames, tokens) -> list[torch.Tensor]:
    """The plain loop's logits [1, vocabulary] after the question and each of `tokens`, for the same turns as the library's."""
    for number, chunk in enumerate(frames):
        loop.append(chunk, first=number == 0)
    step, rows = internals.question_tokens(loop.helper, QUESTION), []
    for following in (*tokens, None):
        positions = text_positions(step.shape[1], loop.next_position)[:, None].to(step.device)
        loop.next_position += step.shape[1]
        out = loop.model(input_ids=step, position_ids=positions, past_key_values=loop.cache, use_cache=True)
        rows.append(out.logits[:, -1])
        step = following
    return rows


def compared(rows: torch.Tensor, exact: torch.Tensor) -> dict:
    """Errors of logits `rows` [n, vocabulary] against `exact`.

    relative_error: norm of the difference over the norm of `exact`.
    same_likeliest: for every row whether the likeliest token is the same.
    largest_loss: by how many logits the chosen token is at most below the likeliest one in `exact`.
    rms_error: root mean square error of a logit, for scale.
    """
    chosen = rows.argmax(-1, keepdim=True)
    return {
        "relative_error": ((rows - exact).norm() / exact.norm()).item(),
        "same_likeliest": (chosen == exact.argmax(-1, keepdim=True)).flatten().tolist(),
        "largest_loss": (exact.amax(-1) - exact.gather(-1, chosen).flatten()).max().item(),
        "rms_error": (rows - exact).square().mean().sqrt().item(),
    }


def copy_in_fp32(model):
    """The same model with its weights in fp32."""
    made = type(model)(model.config).to(model.device, torch.float32).eval()
    made.load_state_dict(model.state_dict())
    return made
