"""Qwen2-VL (arXiv:2409.12191): every temporal grid is one position after the last, whatever the time between them, and all
layers of the vision tower attend within a temporal grid."""

from kvlib.families.family import Family, VisionShape
from kvlib.ops.pixels import resize_each
from kvlib.ops.vision import GridTower


class Tower(GridTower):
    """The vision tower of Qwen2-VL."""

    def last_norm(self):
        return self.visual.merger.ln_q

    def merge(self, normed):
        return self.visual.merger.mlp(normed.view(-1, self.visual.merger.hidden_size))


def vision_shape(vision) -> VisionShape:
    inner = 2 * int(vision.embed_dim * vision.mlp_ratio)
    return VisionShape(vision.embed_dim, inner, vision.hidden_size, vision.depth)


QWEN2_VL = Family(
    model_type="qwen2_vl",
    name="Qwen2-VL",
    model_class="Qwen2VLForConditionalGeneration",
    tower=Tower,
    time_step=lambda config, seconds: 1,
    pixel_limits=(56 * 56, 28 * 28 * 1280),
    resize=resize_each,
    vision_shape=vision_shape,
    two_blocks={},
)
