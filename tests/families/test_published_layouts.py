"""Checkpoints of every family in the layouts that Qwen publishes: sharded, tied, with a flat or a nested config.json."""

import json

import pytest
import torch
from helpers import QUESTION
from input.checkpoints import INDEX, edit, publish, read, write
from safetensors.torch import load_file, save_file

from kvlib import StreamQwenModel, VideoStreamingInference
from kvlib.checkpoint import check_checkpoint, load_config
from kvlib.families import FAMILIES, family_of
from kvlib.model import load_processor

OLD_NAMES = {"model.language_model.": "model.", "model.visual.": "visual."}  # Qwen2-VL's and Qwen2.5-VL's


def old_name(name: str) -> str:
    return next((old + name[len(new) :] for new, old in OLD_NAMES.items() if name.startswith(new)), name)


@pytest.fixture
def published(tmp_path, model, processor):
    """A folder as Qwen publishes the family."""
    folder = tmp_path / "published"
    publish(folder, model, processor)
    if family_of(model.config).stamped:
        model.config.save_pretrained(folder)  # nested
        limits = {"shortest_edge": 8192, "longest_edge": 819200}
        write(folder / "video_preprocessor_config.json", {"size": limits, "video_processor_type": "Qwen3VLVideoProcessor"})
        return folder
    index = read(folder / INDEX)["weight_map"]
    renamed = {
        name: next((new + name[len(old) :] for old, new in OLD_NAMES.items() if name.startswith(old)), name) for name in index
    }
    for file in sorted(set(index.values())):
        tensors = load_file(folder / file)
        save_file({renamed[name]: tensor for name, tensor in tensors.items()}, folder / file, {"format": "pt"})
    write(folder / INDEX, {"metadata": {}, "weight_map": {renamed[name]: file for name, file in index.items()}})
    return folder


def test_every_tensor_is_loaded(published, model, processor, frames):
    check_checkpoint(published)
    loaded = StreamQwenModel.from_pretrained(published)
    assert type(loaded) is type(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    own = load_processor(published)
    answers = []
    for each, settings in ((loaded, own), (model, processor)):
        streamed = VideoStreamingInference(each.eval(), settings, "cpu")
        for seed in range(3):
            streamed.append_video_chunk(frames(4, seed, 84, 140))
        answers.append(streamed.ask(QUESTION, max_new_tokens=8, do_sample=False)[0])
    assert answers[0] == answers[1]


def test_limits_of_pixels_are_those_of_videos(published, model):
    size = load_processor(published).image_processor.size
    expected = (8192, 819200) if family_of(model.config).stamped else (3136, 50176)
    assert (size["shortest_edge"], size["longest_edge"]) == expected


def test_without_limits_the_family_s_own_are_taken(published, model):
    family = family_of(model.config)
    (published / "video_preprocessor_config.json").unlink(missing_ok=True)
    edit(published / "preprocessor_config.json", size=None, min_pixels=None, max_pixels=None)
    size = load_processor(published).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == family.pixel_limits


def test_a_model_of_another_kind_is_refused_with_what_is_known(published):
    config = json.loads((published / "config.json").read_text())
    for kind, message in (("qwen3_5", "recurrent"), ("llava", "cannot stream")):
        write(published / "config.json", config | {"model_type": kind})
        with pytest.raises(ValueError, match=rf"'{kind}'.*{message}") as caught:
            load_config(published)
        assert all(family.name in str(caught.value) for family in FAMILIES.values())
