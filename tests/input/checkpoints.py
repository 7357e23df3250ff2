"""Tiny checkpoint folders in the layout of those that Qwen publishes, whole or damaged."""

import json
import re
import shutil

import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:8ff3c91f8d42\nsize 3989127864\n"
LIMITS = {"min_pixels": 3136, "max_pixels": 50176}


def publish(path, model, processor) -> None:
    """Two shards with an index, a flat config.json, and pixel limits outside of `size`, as Qwen2.5-VL is published."""
    processor.tokenizer.save_pretrained(path)
    processor.image_processor.save_pretrained(path)
    settings = read(path / "preprocessor_config.json")
    settings.pop("size")
    write(path / "preprocessor_config.json", settings | LIMITS)
    model.save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    for file, names in zip(SHARDS, halves, strict=True):
        save_file({name: tensors[name] for name in names}, path / file, {"format": "pt"})
    placed = {name: file for file, names in zip(SHARDS, halves, strict=True) for name in names}
    write(path / INDEX, {"metadata": {}, "weight_map": placed})
    config = read(path / "config.json")
    config["text_config"].pop("layer_types", None)
    rope = config["text_config"].pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = config.pop("text_config") | config | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    write(path / "config.json", flat)


def copy(source, target):
    """Hard links: what `edit` and the others write anew, the source keeps."""
    shutil.copytree(source, target, copy_function=lambda a, b: target.__class__(b).hardlink_to(a))
    return target


def read(file) -> dict:
    return json.loads(file.read_text())


def write(file, content) -> None:
    """Bytes, text or JSON, in a new file."""
    file.unlink(missing_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def edit(file, **changes) -> None:
    """Change entries of a JSON file; None takes the entry out."""
    content = read(file) | changes
    write(file, {name: value for name, value in content.items() if value is not None})


def cut(file, size: int) -> None:
    """Keep the first `size` bytes, or leave out the last `-size`."""
    write(file, file.read_bytes()[:size])


def edit_tensors(folder, pattern: str, change) -> str:
    """`change` the first tensor whose name matches, in place; a result of None takes it out of file and index. Its name."""
    index = read(folder / INDEX)
    name = next(name for name in sorted(index["weight_map"]) if re.search(pattern, name))
    file = folder / index["weight_map"][name]
    tensors = {other: tensor.clone() for other, tensor in load_file(file).items()}
    tensors[name] = change(tensors[name])
    if tensors[name] is None:
        del tensors[name], index["weight_map"][name]
        write(folder / INDEX, index)
    file.unlink()
    save_file(tensors, file, {"format": "pt"})
    return name


def spoil(value: float):
    """A change that writes one `value` into the middle of a tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return change


def config(**changes):
    """A damage: changed entries of config.json. So the next ones, of other files."""
    return lambda f: edit(f / "config.json", **changes)


def settings(**changes):
    return lambda f: edit(f / "preprocessor_config.json", **changes)


def without(*patterns):
    return lambda f: [file.unlink() for pattern in patterns for file in f.glob(pattern)]


def several(*changes):
    return lambda f: [change(f) for change in changes]


def sizes(size):
    """A `size` of preprocessor_config.json, in place of the limits beside it."""
    return settings(min_pixels=None, max_pixels=None, size=size)
