"""Checks of a checkpoint before it is used: its files, tensor names, shapes and settings. No weight is read."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

ARCHITECTURE = "qwen2_5_vl"
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
FLOATS = {"F64", "F32", "F16", "BF16"}  # the dtypes, as safetensors names them, of weights that are not quantized
PIXEL_LIMITS = (56 * 56, 28 * 28 * 1280)  # Qwen2-VL's. The class attribute is no use: transformers writes into it.


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
    """The configuration of a Qwen2.5-VL whose cached keys stay valid as the stream grows."""
    if folder := _local_folder(path):
        _refuse_adapter(folder)
        _check_architecture(path, _read_json(folder / "config.json").get("model_type"))
        _read_present(folder, ["generation_config.json"])
    with _explained("config.json", path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **hub_options)
    _check_architecture(path, config.model_type)
    text, rope = config.text_config, config.text_config.rope_parameters
    if other := sorted(set(text.layer_types) - {"full_attention"}):
        remedy = 'choose a checkpoint whose config.json has "use_sliding_window": false'
        raise _fault(path, f"has layers of {other}, which drop old tokens themselves", remedy)
    if rope["rope_type"] in ("dynamic", "longrope"):
        problem = f"has rope_type {rope['rope_type']!r}: its frequencies change with the length, and cached keys become invalid"
        raise _fault(path, problem, 'set "default" or "yarn" in config.json')
    section, pairs = rope.get("mrope_section"), text.hidden_size // text.num_attention_heads // 2
    if not isinstance(section, list) or len(section) != 3 or sum(section) != pairs:
        raise _fault(path, f"has mrope_section {section} in config.json, not three numbers with the sum {pairs}")
    return config


def check_weights(path, config) -> dict[str, Path]:
    """Check headers, names and shapes. Returns the file of each tensor; empty for a name on the Hub."""
    if not (folder := _local_folder(path)):
        return {}
    files, stored, dtypes = {}, {}, set()
    for file, indexed in _shards(folder).items():
        header = _read_header(file)
        if lost := sorted(indexed - header.keys()):
            raise _fault(file, f"lacks the tensor {lost[0]!r}, which {INDEX} names", "fetch both again")
        for name, (shape, dtype) in header.items():  # the older, published names become those of the model
            name = re.sub(
                r"^model(?!\.(language_model|visual))", "model.language_model", re.sub("^visual", "model.visual", name)
            )
            files[name], stored[name] = file, shape
            dtypes.add(dtype)
    declared = getattr(config, "quantization_config", None)
    if bool(declared) == (dtypes <= FLOATS):
        problem = f"has weights of {sorted(dtypes)}, but config.json has quantization_config {declared}"
        raise _fault(path, problem, "fetch weights and config.json of one checkpoint, best one that is not quantized")
    if not declared:
        _compare_shapes(path, config, stored)
    return files


def load_tokenizer(path, config):
    """The tokenizer. It has the special tokens of a turn, encodes plain text, and all its ids are in the vocabulary."""
    if folder := _local_folder(path):
        present = _read_present(folder, TOKENIZER_FILES)
        if "tokenizer.json" not in present and not ("vocab.json" in present and (folder / "merges.txt").exists()):
            raise FileNotFoundError(f"no tokenizer.json in {str(path)!r}: fetch the tokenizer files of the checkpoint too")
        if "tokenizer.json" not in present:
            _read(folder / "merges.txt")
    with _explained("tokenizer", path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        ids, text = tokenizer.get_vocab(), "user\nassistant"
        lost = [t for t in SPECIAL_TOKENS if tokenizer.encode(t, add_special_tokens=False) != [ids.get(t)]]
        reads_text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    if lost or not reads_text:
        problem = f"lacks the special tokens {lost}" if lost else "does not give back plain text"
        raise _fault(path, f"has a tokenizer that {problem}", "fetch the tokenizer files of a Qwen2.5-VL")
    if (largest := max(ids.values())) >= config.text_config.vocab_size:
        problem = f"has a tokenizer with ids up to {largest}, but vocab_size {config.text_config.vocab_size} in config.json"
        raise _fault(path, problem, "fetch both of one checkpoint")
    return tokenizer


def load_image_processor(path, config) -> Qwen2VLImageProcessorPil:
    """The image settings, whose patch sizes are the model's. Pixel limits are read from all the places in use."""
    if folder := _local_folder(path):
        present = _read_present(folder, IMAGE_FILES)
        if IMAGE_FILES[0] not in present and "image_processor" not in present.get(IMAGE_FILES[1], {}):
            raise FileNotFoundError(f"no {IMAGE_FILES[0]} in {str(path)!r}: fetch that of the checkpoint")
    with _explained(IMAGE_FILES[0], path):
        given = dict(Qwen2VLImageProcessorPil.get_image_processor_dict(path)[0])
        size, kind = given.pop("size", None) or {}, given.get("image_processor_type", "none named")
        low, high = (given.pop(f"{x}_pixels", None) or size.get(f"{x}_pixels") for x in ("min", "max"))
        low, high = size.get("shortest_edge") or low or PIXEL_LIMITS[0], size.get("longest_edge") or high or PIXEL_LIMITS[1]
        made = Qwen2VLImageProcessorPil.from_dict(given | {"size": {"shortest_edge": low, "longest_edge": high}})
        scales = torch.tensor([made.image_mean, made.image_std])
        usable = scales.shape == (2, 3) and scales.isfinite().all() and scales[1].min() > 0 and made.rescale_factor > 0
        usable = usable and 0 < low <= high and ("Qwen2" in kind or kind == "none named") and given
    vision, sizes = config.vision_config, (made.patch_size, made.temporal_patch_size, made.merge_size)
    wanted = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    if not usable or sizes != wanted:
        problem = f"has a {IMAGE_FILES[0]} that does not fit: type {kind}, patch sizes {sizes} (the model's: {wanted}), pixels"
        raise _fault(path, f"{problem} {low} to {high}, mean and deviation {scales.tolist()}", "fetch that of a Qwen2.5-VL")
    return made


def _local_folder(path) -> Path | None:
    folder = Path(str(path))
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise _fault(path, "is a folder that you may not read", "change its permissions")
        return folder
    if folder.exists():
        raise _fault(path, "is a file", "give the folder that holds config.json, tokenizer and weights")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(path)):  # no name on the Hub either
        raise FileNotFoundError(f"no checkpoint at {str(path)!r}: give a folder with config.json, or a model's name on the Hub")
    return None


def _refuse_adapter(folder: Path) -> None:
    complete = (folder / "config.json").exists() and any(folder.glob("model*.safetensors"))
    if not complete and (folder / "adapter_config.json").exists():
        base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        remedy = f"load {base!r}, then peft.PeftModel.from_pretrained(model, {str(folder)!r}).merge_and_unload()"
        raise _fault(folder, f"holds an adapter (LoRA) of the base model {base!r}, not a model", remedy)


def _check_architecture(path, found) -> None:
    if found != ARCHITECTURE:
        problem = f"has model_type {found!r} in config.json, but kvlib streams {ARCHITECTURE!r} only"
        raise _fault(path, problem, "choose a Qwen2.5-VL checkpoint")


def _shards(folder: Path) -> dict[Path, set[str]]:
    """Each weight file, with the names of the tensors that the index says are in it."""
    if (folder / WEIGHTS).exists():
        return {folder / WEIGHTS: set()}
    if not (folder / INDEX).exists():
        others = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".gguf", ".safetensors"))
        remedy = "fetch them, or convert weights that you trust: load them with transformers, then save_pretrained"
        raise FileNotFoundError(f"no {WEIGHTS} or {INDEX} in {str(folder)!r}, only {others}: {remedy}")
    placed = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise _fault(folder / INDEX, "has no usable weight_map")
    return {folder / file: {name for name in placed if placed[name] == file} for file in sorted(set(placed.values()))}


def _read_header(file: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each tensor. safetensors compares the header's offsets with the file's size."""
    _read(file, 64)
    try:
        with safe_open(file, "pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            return {name: (part.get_shape(), part.get_dtype()) for name, part in parts.items()}
    except Exception as error:  # safetensors raises its own type
        raise _fault(file, f"({file.stat().st_size} bytes) is cut or damaged ({error})") from error


def _compare_shapes(path, config, stored: dict[str, list[int]]) -> None:
    with _explained("the model in config.json", path), torch.device("meta"):
        expected = {name: list(t.shape) for name, t in Qwen2_5_VLForConditionalGeneration(config).state_dict().items()}
    if config.tie_word_embeddings or config.text_config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    require_tensors(path, sorted(expected.keys() - stored.keys()))
    if wrong := sorted(name for name in expected if stored[name] != expected[name]):
        problem = f"has {wrong[0]!r} of shape {stored[wrong[0]]}, but {expected[wrong[0]]} by config.json"
        raise _fault(path, problem, "fetch both of one checkpoint")


def require_tensors(path, missing: list[str]) -> None:
    """Raise ValueError if there are any missing tensors."""
    if missing:
        raise _fault(path, f"lacks {len(missing)} of the model's tensors, {missing[0]!r} for one")


def _read(file: Path, count: int = -1) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(count)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no {file.name} in {str(file.parent)!r}: the checkpoint is incomplete, fetch it again"
        ) from error
    except OSError as error:
        raise _fault(file, f"cannot be read ({error.strerror})", "give a file that you may read") from error
    if content.startswith(b"version https://git-lfs"):
        raise _fault(file, "is a Git LFS pointer, not the file itself", f"run `git lfs pull` in {str(file.parent)!r}")
    if not content:
        raise _fault(file, "is empty")
    return content


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(_read(file).decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _fault(file, f"is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise _fault(file, f"holds a JSON {type(content).__name__}, not an object")
    return content


def _read_present(folder: Path, names) -> dict[str, dict]:
    return {name: _read_json(folder / name) for name in names if (folder / name).exists()}


def _fault(path, problem: str, remedy: str = "the checkpoint is damaged or incomplete, fetch it again") -> ValueError:
    return ValueError(f"{str(path)!r} {problem}: {remedy}")


@contextmanager
def _explained(part: str, path):
    """Turns what transformers raises into FileNotFoundError or ValueError with the part and the checkpoint."""
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(f"no {part} for {str(path)!r}: give a checkpoint's folder or its name on the Hub") from error
    except Exception as error:
        own_code = "trust_remote_code" in str(error)
        problem = "needs code of its own, which is not run" if own_code else f"is unusable: {type(error).__name__}: {error}"
        raise _fault(path, f"({part}) {problem}", "choose a Qwen2.5-VL checkpoint, or fetch it again") from error
