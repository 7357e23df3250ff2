"""What the engine asks of a family."""

from collections.abc import Callable
from dataclasses import dataclass

import transformers


@dataclass(frozen=True)
class VisionShape:
    """What the work of a vision tower depends on. width: of its states. inner: weights of a block's MLP for each number of a
    state. output: width of the features. whole: blocks that attend within a temporal grid; the others within a `window` of so
    many patches."""

    width: int
    inner: int
    output: int
    whole: int
    window: int = 0


@dataclass(frozen=True)
class Family:
    """A family of vision-language models.

    model_type: as in config.json. name: as people say. model_class: the name of transformers' class. tower: the class that runs
    its vision tower, see `kvlib.ops.vision.VisionTower`. time_step(config, seconds): how many positions two temporal grids are
    apart that begin `seconds` after one another. pixel_limits: fewest and most pixels, where the checkpoint says nothing.
    resize(frames, height, width, factor, fewest, most): height and width in pixels, multiples of `factor`, to which frames are
    resized. vision_shape(config of the tower). two_blocks: what makes the configuration of a tower one of two blocks, of
    different kinds where it has them. stamped: every temporal grid is a block of its own behind a text with its time; otherwise
    all grids of a chunk are one block, `time_step` apart.
    """

    model_type: str
    name: str
    model_class: str
    tower: type
    time_step: Callable[..., float]
    pixel_limits: tuple[int, int]
    resize: Callable[..., tuple[int, int]]
    vision_shape: Callable[..., VisionShape]
    two_blocks: dict
    stamped: bool = False

    def reduced(self, vision):
        """The configuration of a vision tower with two blocks."""
        return type(vision)(**vision.to_dict() | {"depth": 2} | self.two_blocks)

    @property
    def transformers_class(self):
        """transformers' class of the whole model."""
        return getattr(transformers, self.model_class)
