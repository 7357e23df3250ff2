"""Qwen3-VL (arXiv:2511.21631), the dense models: the time of every temporal grid is written in front of it, the vision tower
has learned positions, and DeepStack adds features of its inner layers behind the first layers of the language model."""

import torch
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from kvlib.families.family import Family, VisionShape
from kvlib.ops.fused import device_of
from kvlib.ops.vision import Grid, GridTower


class DeepTower(GridTower):
    """The vision tower of Qwen3-VL: the features after its last block, then those of its taps."""

    def place(self, grid: Grid, device) -> torch.Tensor:
        """The learned positions, interpolated to the grid: [patches, width], in their own dtype."""
        visual = self.visual
        taps, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([grid]),
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.spatial_merge_size,
        )
        table = device_of(visual.pos_embed)
        return (visual.pos_embed(taps.to(table)) * weights.to(table)[:, :, None]).sum(1).to(device)

    def last_norm(self):
        return self.visual.merger.norm

    def merge(self, normed):
        merger = self.visual.merger
        return merger.linear_fc2(merger.act_fn(merger.linear_fc1(normed.view(-1, merger.hidden_size))))

    def tap(self, number: int, hidden: torch.Tensor) -> torch.Tensor | None:
        visual = self.visual
        if number not in visual.deepstack_visual_indexes:
            return None
        return visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)](hidden)


def resize(frames: int, height: int, width: int, factor: int, fewest: int, most: int) -> tuple[int, int]:
    """The limits are for all pixels of a chunk. A lone frame counts as two, as it is paired with itself."""
    return smart_resize(max(frames, 2), height, width, factor=factor, min_pixels=fewest, max_pixels=most)


def vision_shape(vision) -> VisionShape:
    """The taps' own mergers are left out: they take a hundredth of the work."""
    return VisionShape(vision.hidden_size, 2 * vision.intermediate_size, vision.out_hidden_size, vision.depth)


QWEN3_VL = Family(
    model_type="qwen3_vl",
    name="Qwen3-VL",
    model_class="Qwen3VLForConditionalGeneration",
    tower=DeepTower,
    time_step=lambda config, seconds: 1,
    pixel_limits=(128 * 32 * 32, 32 * 32 * 768),
    resize=resize,
    vision_shape=vision_shape,
    two_blocks={"deepstack_visual_indexes": [0]},
    stamped=True,
)
