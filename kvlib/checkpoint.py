"""Checks of a checkpoint before it is used: its files, tensor names, shapes and settings. No weight is read."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from kvlib.families import FAMILIES, family_of, refusal

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
REMEDY = "choose a checkpoint of one of these"
IMAGE_FILES, VIDEO_FILE = ("preprocessor_config.json", "processor_config.json"), "video_preprocessor_config.json"
VIDEO_SETTINGS = (
    "size",
    "min_pixels",
    "max_pixels",
    "patch_size",
    "merge_size",
    "temporal_patch_size",
    "image_mean",
    "image_std",
)
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
FLOATS = {"F64", "F32", "F16", "BF16"}  # the dtypes, as safetensors names them, of weights that are not quantized


def check_checkpoint(path) -> None:
    """Check all that can be known without reading weights.

    path: a local folder, or a name on the Hub ("owner/name"), whose weights are then not looked at.

    Raises FileNotFoundError for what is missing and ValueError for what is damaged or cannot be streamed. The message
    names the file and the remedy. The functions below raise the same.
    """
    config = load_config(path)
    check_weights(path, config)
    load_tokenizer(path, config)
    load_image_processor(path, config)


def load_config(path, **hub_options):
    """The configuration of a model of a known family whose cached keys stay valid as the stream grows."""
    model_type = None
    if folder := _local_folder(path):
        _refuse_adapter(folder)
        model_type = _read_json(folder / "config.json").get("model_type")
        _read_present(folder, ["generation_config.json"])
    require(folder is None or model_type in FAMILIES, path, refusal(model_type), REMEDY)
    with _explained("config.json", path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **hub_options)
    require(config.model_type in FAMILIES, path, refusal(config.model_type), REMEDY)
    text, rope = config.text_config, config.text_config.rope_parameters
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    problem = f"has layers of {sorted(kinds)}, some of which drop old tokens themselves"
    require(kinds == {"full_attention"}, path, problem, 'set "use_sliding_window": false in config.json')
    problem = f"has rope_type {rope['rope_type']!r}: its frequencies change with the length, and cached keys become invalid"
    require(rope["rope_type"] not in ("dynamic", "longrope"), path, problem, 'set "default" or "yarn" in config.json')
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    section, pairs = rope.get("mrope_section"), head // 2
    fits = isinstance(section, list) and len(section) == 3 and sum(section) == pairs
    require(fits, path, f"has mrope_section {section} in config.json, not three numbers with the sum {pairs}")
    return config


def check_weights(path, config) -> dict[str, Path]:
    """Check headers, names and shapes. Returns the file of each tensor; empty for a name on the Hub."""
    folder, files, stored, dtypes = _local_folder(path), {}, {}, set()
    for file, indexed in _shards(folder).items() if folder else ():
        header = _read_header(file)
        lost = sorted(indexed - header.keys())
        require(not lost, file, f"lacks tensors that {INDEX} names, such as {lost[:1]}", "fetch both again")
        for name, (shape, dtype) in header.items():  # the older, published names become those of the model
            name = re.sub(
                r"^model(?!\.(language_model|visual))", "model.language_model", re.sub("^visual", "model.visual", name)
            )
            files[name], stored[name] = file, shape
            dtypes.add(dtype)
    declared = getattr(config, "quantization_config", None)
    if folder:
        problem = f"has weights of {sorted(dtypes)}, but config.json has quantization_config {declared}"
        require(bool(declared) != (dtypes <= FLOATS), path, problem, "fetch both of one checkpoint, best one not quantized")
    if folder and not declared:
        with _explained("the model in config.json", path), torch.device("meta"):
            made = family_of(config).transformers_class(config)
            expected = {name: list(t.shape) for name, t in made.state_dict().items()}
        if config.tie_word_embeddings or config.text_config.tie_word_embeddings:
            expected.pop("lm_head.weight")
        wrong = [(name, stored[name], shape) for name, shape in expected.items() if stored.get(name, shape) != shape]
        require_tensors(path, expected.keys() - stored.keys(), wrong)
    return files


def require_tensors(path, missing, mismatched) -> None:
    """Raise ValueError for any missing names, and for any mismatched (name, shape stored, shape wanted)."""
    missing, mismatched = sorted(missing), sorted(mismatched)
    require(not missing, path, f"lacks {len(missing)} of the model's tensors, {missing[:1]} for one")
    require(not mismatched, path, f"has tensors (name, shape, by config.json) {mismatched[:1]}", "fetch both of one checkpoint")


def load_tokenizer(path, config):
    """The tokenizer. It has the special tokens of a turn, encodes plain text, and all its ids are in the vocabulary."""
    if folder := _local_folder(path):
        present = _read_present(folder, TOKENIZER_FILES)
        if "tokenizer.json" not in present:
            if "vocab.json" not in present or not (folder / "merges.txt").exists():
                raise FileNotFoundError(f"no tokenizer.json in {str(path)!r}: fetch the tokenizer files of the checkpoint too")
            _read(folder / "merges.txt")
    with _explained("tokenizer", path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        ids, size, text = tokenizer.get_vocab(), config.text_config.vocab_size, "user\nassistant"
        lost = [t for t in SPECIAL_TOKENS if tokenizer.encode(t, add_special_tokens=False) != [ids.get(t)]]
        reads_text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    remedy = f"fetch the tokenizer files of a {family_of(config).name}"
    require(not lost, path, f"has a tokenizer that lacks the special tokens {lost}", remedy)
    require(reads_text, path, "has a tokenizer that does not give back plain text", remedy)
    problem = f"has a tokenizer with ids up to {max(ids.values())}, but vocab_size {size} in config.json"
    require(max(ids.values()) < size, path, problem, "fetch both of one checkpoint")
    return tokenizer


def load_image_processor(path, config) -> Qwen2VLImageProcessorPil:
    """The settings of the frames of a video, whose patch sizes are the model's. Pixel limits are read from all the places in
    use."""
    family = family_of(config)
    if folder := _local_folder(path):
        present = _read_present(folder, (*IMAGE_FILES, VIDEO_FILE))
        if IMAGE_FILES[0] not in present and "image_processor" not in present.get(IMAGE_FILES[1], {}):
            raise FileNotFoundError(f"no {IMAGE_FILES[0]} in {str(path)!r}: fetch that of the checkpoint")
    with _explained(IMAGE_FILES[0], path):
        given = dict(Qwen2VLImageProcessorPil.get_image_processor_dict(path)[0])
        kind = given.get("image_processor_type", "Qwen2 by default")
        if family.stamped:  # its limits for images are for one picture, those for videos for all of a chunk
            given = _without_limits(given) | _video_settings(path, folder)
        size = given.pop("size", None) or {}
        low, high = given.pop("min_pixels", None), given.pop("max_pixels", None)  # these override `size`, as in transformers
        low = low or size.get("shortest_edge") or size.get("min_pixels") or family.pixel_limits[0]
        high = high or size.get("longest_edge") or size.get("max_pixels") or family.pixel_limits[1]
        made = Qwen2VLImageProcessorPil.from_dict(given | {"size": {"shortest_edge": low, "longest_edge": high}})
        scales = torch.tensor([made.image_mean, made.image_std])
        usable = scales.shape == (2, 3) and scales.isfinite().all() and scales[1].min() > 0 and made.rescale_factor > 0
        usable = usable and 0 < low <= high and "Qwen2" in kind and given
    vision, sizes = config.vision_config, (made.patch_size, made.temporal_patch_size, made.merge_size)
    wanted = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    problem = f"has a {IMAGE_FILES[0]} that does not fit: type {kind}, patch sizes {sizes} (the model's: {wanted}), pixels"
    problem = f"{problem} {low} to {high}, mean and deviation {scales.tolist()}"
    require(usable and sizes == wanted, path, problem, f"fetch that of a {family.name}")
    return made


def _without_limits(given: dict) -> dict:
    return {name: value for name, value in given.items() if name not in ("size", "min_pixels", "max_pixels")}


def _video_settings(path, folder: Path | None) -> dict:
    """What a checkpoint says of videos beside what it says of images; nothing where it has no such file."""
    if folder and not (folder / VIDEO_FILE).exists():
        found = _read_present(folder, IMAGE_FILES[1:]).get(IMAGE_FILES[1], {}).get("video_processor", {})
        return {name: found[name] for name in VIDEO_SETTINGS if name in found}
    try:
        found = Qwen2VLImageProcessorPil.get_image_processor_dict(path, image_processor_filename=VIDEO_FILE)[0]
    except OSError:
        return {}
    return {name: found[name] for name in VIDEO_SETTINGS if name in found}


def require(condition, path, problem: str, remedy: str = "the checkpoint is damaged or incomplete, fetch it again") -> None:
    """Raise ValueError with path, problem and remedy unless the condition holds."""
    if not condition:
        raise ValueError(f"{str(path)!r} {problem}: {remedy}")


def _local_folder(path) -> Path | None:
    folder = Path(str(path))
    readable = os.access(folder, os.R_OK | os.X_OK)
    require(readable or not folder.is_dir(), path, "is a folder that you may not read", "change its permissions")
    require(folder.is_dir() or not folder.exists(), path, "is a file", "give the folder that holds config.json and weights")
    if not folder.is_dir() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(path)):  # no name on the Hub either
        raise FileNotFoundError(f"no checkpoint at {str(path)!r}: give a folder with config.json, or a model's name on the Hub")
    return folder if folder.is_dir() else None


def _refuse_adapter(folder: Path) -> None:
    complete = (folder / "config.json").exists() and any(folder.glob("model*.safetensors"))
    if not complete and (folder / "adapter_config.json").exists():
        base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        remedy = f"load {base!r}, then peft.PeftModel.from_pretrained(model, {str(folder)!r}).merge_and_unload()"
        require(False, folder, f"holds an adapter (LoRA) of the base model {base!r}, not a model", remedy)


def _shards(folder: Path) -> dict[Path, set[str]]:
    """Each weight file, with the names of the tensors that the index says are in it."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: set()}
    if not (folder / INDEX).exists():
        others = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".gguf", ".safetensors"))
        remedy = "fetch them, or convert weights that you trust: load them with transformers, then save_pretrained"
        raise FileNotFoundError(f"no {WEIGHTS} or {INDEX} in {str(folder)!r}, only {others}: {remedy}")
    placed = _read_json(folder / INDEX).get("weight_map")
    usable = isinstance(placed, dict) and placed and all(isinstance(file, str) for file in placed.values())
    require(usable, folder / INDEX, "has no usable weight_map")
    return {folder / file: {name for name in placed if placed[name] == file} for file in sorted(set(placed.values()))}


def _read_header(file: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each tensor. safetensors compares the header's offsets with the file's size."""
    _read(file, 64)
    try:
        with safe_open(file, "pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            return {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}
    except Exception as error:  # safetensors raises its own type
        size = file.stat().st_size
        raise ValueError(f"{str(file)!r} ({size} bytes) is cut or damaged ({error}): fetch it again") from error


def _read(file: Path, count: int = -1) -> bytes:
    if not file.exists():
        raise FileNotFoundError(f"no {file.name} in {str(file.parent)!r}: the checkpoint is incomplete, fetch it again")
    try:
        with file.open("rb") as opened:
            content = opened.read(count)
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error.strerror}): give a file that you may read") from error
    pointer, remedy = content.startswith(b"version https://git-lfs"), f"run `git lfs pull` in {str(file.parent)!r}"
    require(not pointer, file, "is a Git LFS pointer, not the file itself", remedy)
    require(content, file, "is empty")
    return content


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(_read(file).decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(file)!r} is not valid JSON ({error}): it is damaged, fetch it again") from error
    require(isinstance(content, dict), file, f"holds a JSON {type(content).__name__}, not an object")
    return content


def _read_present(folder: Path, names) -> dict[str, dict]:
    return {name: _read_json(folder / name) for name in names if (folder / name).exists()}


@contextmanager
def _explained(part: str, path):
    """Turns what transformers raises into FileNotFoundError or ValueError with the part and the path."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(f"no {part} for {str(path)!r}: give a checkpoint's folder or its name on the Hub") from error
    except Exception as error:
        own_code = "trust_remote_code" in str(error)
        problem = "needs code of its own, which is not run" if own_code else f"is unusable: {type(error).__name__}: {error}"
        raise ValueError(
            f"{str(path)!r} ({part}) {problem}: choose a checkpoint that kvlib streams, or fetch it again"
        ) from error
