"""The forward of the reader for training, and the loss of what each patch shows."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.vision_utils import get_vision_position_ids

from training.model.blocks import branch_mask, signed, text_block, vision_block
from training.model.checkpoint import image_processor
from training.settings import GLYPHS, LONGEST, MERGE, MERGED_SIDE, PATCH


class Trainer(nn.Module):
    """The model's forward for batches of equal grids and branch masks; `check_forward` compares it with transformers' own."""

    def __init__(self, model, device):
        super().__init__()
        self.model, self.device, self.tables = model.to(device), device, {}
        self.vision_block, self.text_block = vision_block, text_block
        self.glyph_head = nn.Linear(model.config.text_config.hidden_size, 4 * (2 * GLYPHS + LONGEST), device=device)
        settings = image_processor()
        self.mean = torch.tensor(settings.image_mean, device=device).view(1, 1, 3, 1, 1)
        self.std = torch.tensor(settings.image_std, device=device).view(1, 1, 3, 1, 1)

    def half(self):
        """Context in which a GPU computes matrix products in bf16; a CPU, which may have no such unit, stays with fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def compile(self) -> None:
        """Compile every function once. The layers share a compilation, because their weights are its inputs."""
        import torch._dynamo

        torch._dynamo.config.recompile_limit = 64
        self.vision_block = torch.compile(vision_block, dynamic=True)
        self.text_block = torch.compile(text_block, dynamic=True)
        self.augment = torch.compile(self.augment, dynamic=True)
        self.patches = torch.compile(self.patches, dynamic=True)
        self.glyph_loss = torch.compile(self.glyph_loss, dynamic=True)

    def distort(self, pixels: torch.Tensor, shots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distort pixels [N, 6, H, W]: half of the shots are made narrower, lower and slanted, a quarter get bolder or thinner
        strokes. shots [N]: the number of each clip's shot, below N.

        Returns the pixels and the affine maps [N, 2, 3] from new to old coordinates.
        """
        n = len(pixels)

        def draw(low: float, high: float, share: float, neutral: float) -> torch.Tensor:
            values = torch.empty(n, device=self.device).uniform_(low, high)
            return torch.where(chosen < share, values, neutral)

        chosen = torch.rand(n, device=self.device)
        across, down = draw(1.0, 1.18, 0.5, 1.0), draw(1.0, 1.18, 0.5, 1.0)  # factors above 1 shrink the picture
        theta = torch.zeros(n, 2, 3, device=self.device)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 1] = across, down, draw(-0.08, 0.08, 0.5, 0.0)
        theta[:, 0, 2], theta[:, 1, 2] = (across - 1) * draw(-1, 1, 0.5, 0.0), (down - 1) * draw(-1, 1, 0.5, 0.0)
        theta = theta[shots]
        grid = self.coordinates(*pixels.shape[-2:]) @ theta.transpose(1, 2)[:, None]
        pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        chosen, amount = torch.rand(n, device=self.device), torch.empty(n, device=self.device).uniform_(0, 0.5)
        bright, dark = ((amount * part)[shots].view(n, 1, 1, 1) for part in (chosen < 0.12, chosen > 0.88))
        wide, narrow = F.max_pool2d(pixels, 3, 1, 1), -F.max_pool2d(-pixels, 3, 1, 1)
        return pixels + bright * (wide - pixels) + dark * (narrow - pixels), theta

    def coordinates(self, height: int, width: int) -> torch.Tensor:
        """(x, y, 1) of the pixels' centres, fp32 [height, width, 3], from -1 to 1. `F.affine_grid` would be compiled anew for every
        size."""
        y, x = ((2 * torch.arange(size, device=self.device) + 1) / size - 1 for size in (height, width))
        ones = torch.ones(height, width, device=self.device)
        return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), ones], -1)

    def augment(self, clips: torch.Tensor, shots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips uint8 [N, 2, 3, H, W] with distortion, gain, offset and noise, as float 0 to 255; and the maps of `distort`. The
        clips of a shot get the same, but for the noise."""
        pixels, theta = self.distort(clips.flatten(1, 2).float(), shots)
        shape = (len(clips), 1, 1, 1)
        gain = torch.empty(shape, device=self.device).uniform_(0.88, 1.12)[shots]
        offset = torch.empty(shape, device=self.device).uniform_(-10, 10)[shots]
        noise = torch.randn_like(pixels) * torch.empty(shape, device=self.device).uniform_(0, 2.5)[shots]
        return (pixels * gain + offset + noise).clamp(0, 255).unflatten(1, (2, 3)), theta

    def patches(self, clips: torch.Tensor) -> torch.Tensor:
        """Normalised patches [N, patches, 1176] of clips [N, 2, 3, H, W] with values 0 to 255."""
        n, *_, height, width = clips.shape
        pixels = (clips.float() / 255 - self.mean) / self.std
        rows, columns = height // MERGED_SIDE, width // MERGED_SIDE
        split = pixels.view(n, 2, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
        return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(n, rows * columns * 4, -1)

    def vision_tables(self, grid: tuple[int, int]):
        """Of a grid: cos and signed sin [patches, 1, head dim], and the window mask bool [patches, patches]. The four patches
        of a merged patch follow one another."""
        if grid not in self.tables:
            visual = self.model.model.visual
            thw = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]])
            positions = get_vision_position_ids(thw, MERGE).to(self.device)
            cos, sin = visual.rotary_pos_emb(torch.zeros(1, device=self.device), positions)
            side = visual.window_size // MERGED_SIDE
            row, column = (
                torch.arange(grid[0] * grid[1]).div(grid[1], rounding_mode="floor"),
                torch.arange(grid[0] * grid[1]) % grid[1],
            )
            window = (row // side * 100 + column // side).repeat_interleave(4).to(self.device)
            self.tables[grid] = cos.float()[:, None], signed(sin.float())[:, None], window[:, None] == window[None]
        return self.tables[grid]

    def vision(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Features [N, merged patches, hidden] of patches [N, patches, 1176]."""
        visual = self.model.model.visual
        cos, sin, mask = self.vision_tables(grid)
        hidden = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
        for index, block in enumerate(visual.blocks):
            full = index in visual.fullatt_block_indexes
            hidden = self.vision_block(block, hidden, cos, sin, None if full else mask)
        return visual.merger(hidden.reshape(-1, hidden.shape[-1])).view(len(patches), grid[0] * grid[1], -1)

    def glyph_loss(self, features: torch.Tensor, glyphs: torch.Tensor, theta: torch.Tensor, grid) -> torch.Tensor:
        """Cross-entropy of what each patch shows: its first two characters, and the index of the first one in the text.

        features [N, merged patches, hidden] of the vision tower; glyphs [N, LONGEST, 3] as in `Ring`; theta from `distort`.
        """
        n, rows, columns = len(features), grid[0] * MERGE, grid[1] * MERGE
        y = (glyphs[..., 1] - theta[:, 1, 2:]) / theta[:, 1, 1:2]
        x = (glyphs[..., 0] - theta[:, 0, 2:] - theta[:, 0, 1:2] * y) / theta[:, 0, :1]
        row = ((y + 1) / 2 * rows).floor().long().clamp(0, rows - 1)
        column = ((x + 1) / 2 * columns).floor().long().clamp(0, columns - 1)
        patch = (
            (row // MERGE * grid[1] + column // MERGE) * 4 + row % MERGE * MERGE + column % MERGE
        )  # as `vision_tables` orders patches
        kind, place = glyphs[..., 2].long(), torch.arange(LONGEST, device=self.device).expand(n, -1)
        first = torch.full((n, rows * columns), LONGEST, device=self.device)
        first.scatter_reduce_(1, patch, torch.where(kind > 0, place, LONGEST), "amin")
        shown = first < LONGEST
        first = first.clamp(max=LONGEST - 1)
        one = torch.where(shown, kind.gather(1, first), 0)
        beside = (first + 1).clamp(max=LONGEST - 1)
        together = patch.gather(1, beside) == torch.arange(rows * columns, device=self.device)
        two = torch.where(shown & together & (beside > first), kind.gather(1, beside), 0)
        logits = self.glyph_head(features).float().view(n, rows * columns, -1)
        weight = torch.where(shown, 1.0, 0.05).flatten()
        weight = weight / weight.sum()
        parts = zip(logits.flatten(0, 1).split([GLYPHS, GLYPHS, LONGEST], -1), (one, two, first), strict=True)
        losses = [F.cross_entropy(part, target.flatten(), reduction="none") for part, target in parts]
        losses[2] = losses[2] * shown.flatten()
        return sum((loss * weight).sum() for loss in losses)

    def learn_glyphs(self, clips, shots, grid, glyphs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Patches and features of augmented clips, and their `glyph_loss`."""
        with torch.no_grad():
            clips, theta = self.augment(clips, shots)
            patches = self.patches(clips)
        features = self.vision(patches, grid)
        return patches, features, self.glyph_loss(features, glyphs, theta, grid)

    @torch.no_grad()
    def dropped(self, patches: torch.Tensor, order: torch.Tensor, per_chunk: int, threshold: float) -> torch.Tensor:
        """Which merged patches `drop_static=threshold` leaves out: bool [B, grids * merged patches], as the engine's
        `changed_patches`.

        patches [U, patches, 1176]; order [B, grids]: for each temporal grid the index of its clip.
        """
        chunks = order.view(-1, per_chunk)
        pixels = patches.view(len(patches), -1, MERGE**2, 3, patches.shape[-1] // 3)
        last, kept = pixels[chunks[:, 0]], [torch.ones_like(chunks[:, 0, None].expand(-1, pixels.shape[1]), dtype=torch.bool)]
        for number in range(1, per_chunk):
            new = pixels[chunks[:, number]]
            change = (new - last).abs().mean((2, 4)) @ self.std.flatten() / 3
            kept.append(change >= threshold)
            last = torch.where(kept[-1][..., None, None, None], new, last)
        return ~torch.stack(kept, 1).view(len(order), -1)

    def answer(self, features: torch.Tensor, batch: dict, dropped: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [n, vocabulary] of the batch's answer tokens, from the features of its clips.

        Nothing attends to a token that `dropped` [B, grids * merged patches] names. As the positions are those of the whole
        stream, this equals leaving it out.
        """
        language = self.model.model.language_model
        embedded = language.embed_tokens(batch["ids"]).to(features.dtype)
        is_video = batch["ids"] == self.model.config.video_token_id
        hidden = embedded.masked_scatter(is_video[..., None], features[batch["order"]])
        mask = branch_mask(batch["branch"], batch["limit"]) if batch["branched"] or dropped is not None else None
        if dropped is not None:
            mask = mask & ~torch.zeros_like(is_video).masked_scatter(is_video, dropped)[:, None, None]
        cos, sin = (x.float()[:, :, None] for x in language.rotary_emb(hidden.float(), batch["positions"]))
        sin = signed(sin)
        for layer in language.layers:
            hidden = self.text_block(layer, hidden, cos, sin, mask)
        return self.model.lm_head(language.norm(hidden.flatten(0, 1)[batch["predict"]]))

    def forward(self, clips, what: dict, batch: dict) -> torch.Tensor:
        """Logits [n, vocabulary] of the answer tokens of a batch planned as `what`, from its clips without augmentation."""
        patches = self.patches(clips)
        return self.answer(self.vision(patches, what["grid"]), batch, self.left_out(patches, what, batch))

    def left_out(self, patches: torch.Tensor, what: dict, batch: dict) -> torch.Tensor | None:
        """`dropped` for a batch planned as `what`; None when nothing is dropped."""
        if not what.get("threshold"):
            return None
        return self.dropped(patches, batch["order"], what["per_chunk"], what["threshold"])
