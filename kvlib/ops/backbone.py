"""The parts of one model that run on the device, shared by all engines on it."""

import threading
from weakref import WeakKeyDictionary, ref

from kvlib.ops.fused import is_on_one_gpu
from kvlib.ops.graphs import GraphPool
from kvlib.ops.language import LanguageModel

_BACKBONES: WeakKeyDictionary = WeakKeyDictionary()  # weak references too: graphs go when the last engine on the model goes
_LOCK = threading.Lock()


class Backbone:
    """Vision tower, of the class `tower`, and language model of a model, and the CUDA `graphs` captured of them. Nothing is
    stored on the model."""

    def __init__(self, model, tower: type):
        visual, language = model.model.visual, model.model.language_model
        self.graphs, self.captures = GraphPool(), captures(model)
        self.vision = tower(visual, self.graphs if self.captures[0] else None)
        self.language = LanguageModel(language, self.graphs if self.captures[1] else None)


def captures(model) -> tuple[bool, bool]:
    """Whether work of the vision tower, and of the language model, can be captured as CUDA graphs."""
    return is_on_one_gpu(model.model.visual), is_on_one_gpu(model.model.language_model)


def backbone_of(model, tower: type) -> Backbone:
    """The `Backbone` of `model`, the same for every engine that is alive; a new one after the model went to another kind of
    device, or got adapters."""
    with _LOCK: return _backbone_of(model, tower)  # noqa: E701  # fmt: skip


def _backbone_of(model, tower: type) -> Backbone:
    known = _BACKBONES[model]() if model in _BACKBONES else None
    if known is None or known.captures != captures(model):
        known = Backbone(model, tower)
        _BACKBONES[model] = ref(known)
    return known
