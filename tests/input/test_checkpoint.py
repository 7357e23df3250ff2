"""Damaged checkpoints: one error that names file and remedy, before any weight is read."""

import builtins
import json
from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import (
    INDEX,
    LIMITS,
    POINTER,
    SHARDS,
    config,
    copy,
    cut,
    edit,
    edit_tensors,
    read,
    settings,
    several,
    sizes,
    spoil,
    without,
    write,
)  # fmt: skip
from safetensors.torch import load_file, save_file

from kvlib import StreamQwenModel, VideoStreamingInference, load_processor
from kvlib.checkpoint import check_checkpoint

EDGES = {"shortest_edge": 3136, "longest_edge": 50176}
LORA = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/base", "r": 8}


def rope(**changes):
    return config(rope_scaling={"mrope_section": [2, 3, 3], **changes})


def one_file(f):
    tensors = load_file(f / SHARDS[0]) | load_file(f / SHARDS[1])
    without("model*")(f)
    save_file(tensors, f / "model.safetensors", {"format": "pt"})


def pickled(f):
    without("model*")(f)
    torch.save({"weight": torch.ones(1)}, f / "pytorch_model.bin")


def index_of_another_file(f):
    index = read(f / INDEX)
    index["weight_map"]["model.more.weight"] = SHARDS[1]
    write(f / INDEX, index)


def in_processor_config(f):
    write(f / "processor_config.json", {"image_processor": read(f / "preprocessor_config.json")})
    without("preprocessor_config.json")(f)


GOOD = {
    "as published": lambda f: None,
    "all weights in one file": one_file,
    "no generation_config.json": without("generation_config.json"),
    "tokenizer.json alone": without("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "image settings in processor_config.json": in_processor_config,
    "pixel limits as edges": sizes(EDGES),
    "pixel limits under four names": sizes({**EDGES, "min_pixels": 99, "max_pixels": 99999}),
    "pixel limits beside size, which they override": settings(size={"shortest_edge": 99, "longest_edge": 99999}),
    "pixel limits in size": sizes(LIMITS),
    "another name of the image processor": settings(image_processor_type="Qwen2_5_VLImageProcessor"),
}
WEIGHTS = {  # faults of configuration or weights: what is done, what the message must say
    "a shard is cut": (lambda f: cut(f / SHARDS[1], -500), rf"{SHARDS[1]}.*bytes.*cut or damaged.*fetch it again"),
    "a shard is cut within its header": (lambda f: cut(f / SHARDS[0], 100), rf"{SHARDS[0]}.*cut or damaged"),
    "a shard is cut within its length": (lambda f: cut(f / SHARDS[0], 5), rf"{SHARDS[0]}.*cut or damaged"),
    "a shard is empty": (lambda f: write(f / SHARDS[0], ""), rf"{SHARDS[0]}.*is empty.*fetch it again"),
    "a shard with bytes behind": (lambda f: write(f / SHARDS[0], "{}" * 99), rf"{SHARDS[0]}.*cut or damaged"),
    "a shard is an LFS pointer": (lambda f: write(f / SHARDS[0], POINTER), rf"{SHARDS[0]}.*LFS pointer.*git lfs pull"),
    "a shard is missing": (without(SHARDS[1]), rf"no {SHARDS[1]}.*incomplete, fetch it again"),
    "a shard is a folder": (several(without(SHARDS[1]), lambda f: (f / SHARDS[1]).mkdir()), rf"{SHARDS[1]}.*cannot be read"),
    "the index is cut": (lambda f: cut(f / INDEX, 200), rf"{INDEX}.*not valid JSON"),
    "the index has no weight_map": (lambda f: write(f / INDEX, {"metadata": {}}), rf"{INDEX}.*weight_map"),
    "the index has an empty weight_map": (lambda f: edit(f / INDEX, weight_map={}), rf"{INDEX}.*weight_map"),
    "the index has other values": (lambda f: edit(f / INDEX, weight_map={"a": 1}), rf"{INDEX}.*weight_map"),
    "the index names more": (index_of_another_file, rf"{SHARDS[1]}.*lacks tensors.*'model.more.weight'"),
    "the index is missing": (without(INDEX), rf"no model.safetensors or {INDEX}.*{SHARDS[0]}"),
    "only pickled weights": (pickled, r"no model.safetensors.*pytorch_model.bin.*convert.*save_pretrained"),
    "no weights at all": (without("model*"), r"no model.safetensors"),
    "a tensor is missing": (lambda f: edit_tensors(f, r"1\.mlp\.up", lambda t: None), r"lacks 1 .*layers\.1\.mlp\.up_proj"),
    "a tensor of another shape": (
        lambda f: edit_tensors(f, r"1\.mlp\.up", lambda t: t[:5].clone()), r"1\.mlp\.up.*\[5, 64\].*\[96, 64\]"
    ),
    "another vocabulary in config.json": (config(vocab_size=300), r"embed_tokens.*\[262, 64\].*\[300, 64\]"),
    "fewer layers in the weights": (config(num_hidden_layers=5), r"lacks 24 .*layers\.3"),
    "8-bit weights undeclared": (
        lambda f: edit_tensors(f, "up_proj", lambda t: t.to(torch.int8)), r"I8.*quantization_config None"
    ),
    "quantization declared only": (
        config(quantization_config={"quant_method": "awq"}), r"F32.*quantization_config.*awq.*not quantized"
    ),
    "config.json is missing": (without("config.json"), r"no config\.json.*fetch it again"),
    "config.json is cut": (lambda f: cut(f / "config.json", 99), r"config\.json.*not valid JSON"),
    "config.json is empty": (lambda f: write(f / "config.json", ""), r"config\.json.*is empty"),
    "config.json is a list": (lambda f: write(f / "config.json", [1]), r"config\.json.*JSON list"),
    "config.json is not text": (lambda f: write(f / "config.json", b"\xff\xfe"), r"config\.json.*not valid JSON"),
    "config.json is an LFS pointer": (lambda f: write(f / "config.json", POINTER), r"config\.json.*git lfs pull"),
    "config.json without a type": (config(model_type=None), r"model_type None.*Qwen2\.5-VL"),
    "config.json of another type": (config(model_type="qwen3_vl_moe"), r"'qwen3_vl_moe'.*Qwen2\.5-VL.*Qwen3-VL"),
    "config.json of an unknown type": (config(model_type="qwen9"), r"'qwen9'.*Qwen2\.5-VL"),
    "config.json with a text for a number": (config(hidden_size="x"), r"config\.json.*hidden_size"),
    "config.json of no possible model": (config(hidden_act="no"), r"config\.json.*unusable"),
    "dynamic frequencies": (rope(type="dynamic", factor=4.0), r"rope_type 'dynamic'.*\"yarn\""),
    "longrope frequencies": (rope(type="longrope", factor=4.0, short_factor=[1.0] * 8, long_factor=[2.0] * 8), "'longrope'"),
    "no sections": (config(rope_scaling={"type": "yarn", "factor": 4.0}), r"mrope_section None"),
    "sections of another head size": (rope(type="mrope", mrope_section=[16, 24, 24]), r"mrope_section \[16, 24, 24\].*sum 8"),
    "generation_config.json is cut": (lambda f: cut(f / "generation_config.json", 9), r"generation_config\.json.*not valid"),
    "an adapter": (
        several(without("model*", "config.json"), lambda f: write(f / "adapter_config.json", LORA)),
        r"adapter.*'Qwen/base'.*peft.*merge_and_unload",
    ),
    "an adapter with a config.json": (
        several(without("model*"), lambda f: write(f / "adapter_config.json", LORA)), r"adapter.*'Qwen/base'"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(published, frames):
    return answer(published, frames())


@pytest.fixture(scope="module")
def frames():
    return lambda: torch.arange(2 * 56 * 84 * 3).remainder(251).to(torch.uint8).view(2, 56, 84, 3)


def answer(path, chunk) -> tuple[str, int]:
    processor = load_processor(path)
    engine = VideoStreamingInference(StreamQwenModel.from_pretrained(path).eval(), processor, "cpu")
    engine.append_video_chunk(chunk)
    return engine.ask("What?", max_new_tokens=4, do_sample=False)[0], processor.image_processor.size["longest_edge"]


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_a_checkpoint_is_accepted_as_people_have_it(folder, frames, expected, change):
    change(folder)
    check_checkpoint(folder)
    assert answer(folder, frames()) == expected
    assert expected[1] == 50176


@pytest.fixture
def no_weight_is_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained", refuse)


@pytest.mark.parametrize("damage, message", WEIGHTS.values(), ids=WEIGHTS)
def test_damaged_weights_are_refused_before_they_are_read(folder, no_weight_is_read, damage, message):
    damage(folder)
    for load in (check_checkpoint, StreamQwenModel.from_pretrained, lambda path: StreamQwenModel.from_pretrained(str(path))):
        with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}") as caught:
            load(folder)
        assert folder.name in str(caught.value)


NAN, INF = float("nan"), float("inf")
NOT_FINITE = [
    *((tensor, NAN, torch.float32) for tensor in ("embed_tokens", r"layers\.1\.input_layernorm", r"q_proj\.bias", "norm1")),
    *(("embed_tokens", value, dtype) for value in (NAN, INF, -INF) for dtype in (torch.bfloat16, torch.float16)),
    ("model.norm", 1e30, torch.float16),
]


@pytest.mark.parametrize("tensor, value, dtype", NOT_FINITE)
def test_weights_that_are_not_finite_are_refused_by_name(folder, tensor, value, dtype):
    name = edit_tensors(folder, tensor, spoil(value))
    file = read(folder / INDEX)["weight_map"][name]
    with pytest.raises(ValueError, match=rf"{file}.*NaN or infinite.*{name.partition('.')[2]}.*fetch it again"):
        StreamQwenModel.from_pretrained(folder, dtype=dtype)


def test_large_weights_that_are_finite_are_accepted(folder):
    name = edit_tensors(folder, "embed_tokens", lambda t: torch.full_like(t, 3e38))
    loaded = StreamQwenModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert name.endswith("embed_tokens.weight") and loaded.get_input_embeddings().weight.min() > 2.9e38


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    """The superuser may read all files, so that the refusal of the system is put on."""
    original = Path.open

    def opened(self, *args, **kwargs):
        if self.name == "config.json":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ValueError, match=r"config\.json' cannot be read \(Permission denied\)"):
        check_checkpoint(folder)


@pytest.mark.parametrize("load", [check_checkpoint, StreamQwenModel.from_pretrained, load_processor])
def test_a_file_instead_of_a_folder_and_a_missing_folder_are_refused(folder, load):
    with pytest.raises(ValueError, match=r"config\.json' is a file: give the folder"):
        load(folder / "config.json")
    for path in (folder / "nowhere", "./nowhere", "~/nowhere", "a/b/nowhere"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at .*nowhere"):
            load(path)


def test_a_name_on_the_hub_goes_to_transformers(monkeypatch):
    asked = []

    def refuse(name, **options):
        asked.append((name, options))
        raise OSError("offline")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(FileNotFoundError, match="'owner/name'.*on the Hub"):
        StreamQwenModel.from_pretrained("owner/name", revision="v1", dtype=torch.float32)
    assert asked == [("owner/name", {"trust_remote_code": False, "revision": "v1"})]


CODE = "open({witness!r}, 'w').write('ran')\nfrom transformers import PreTrainedConfig as C, PreTrainedTokenizerFast as T\n"


@pytest.mark.parametrize("own_type", [False, True])
def test_code_from_a_checkpoint_is_neither_run_nor_asked_about(folder, tmp_path, monkeypatch, own_type):
    witness = tmp_path / "witness"
    write(folder / "code.py", CODE.format(witness=str(witness)))
    edit(folder / "config.json", auto_map={"AutoConfig": "code.C"}, **({"model_type": "own"} if own_type else {}))
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]}, tokenizer_class="Own")
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "code.T"})
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question on standard input"))
    for load in (StreamQwenModel.from_pretrained, load_processor, check_checkpoint):
        try:
            load(folder)
        except ValueError as error:
            assert "Qwen2.5-VL" in str(error) or "kvlib streams" in str(error)
            assert "trust_remote_code" not in str(error)
    assert not witness.exists()


@pytest.mark.parametrize("loader", ["AutoConfig", "AutoTokenizer", "Qwen2_5_VLForConditionalGeneration"])
def test_every_loader_of_transformers_is_told_not_to_run_code(published, monkeypatch, loader):
    loader, options = getattr(transformers, loader), []
    original = loader.from_pretrained

    def recorded(*args, **kwargs):
        options.append(dict(kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(loader, "from_pretrained", recorded)
    load_processor(published)
    StreamQwenModel.from_pretrained(published)
    assert options and all(given["trust_remote_code"] is False for given in options)
    if loader is transformers.Qwen2_5_VLForConditionalGeneration:
        assert options[0]["use_safetensors"] is True


def test_trust_remote_code_is_refused(published):
    with pytest.raises(ValueError, match="trust_remote_code=True.*runs no code"):
        StreamQwenModel.from_pretrained(published, trust_remote_code=True)
    StreamQwenModel.from_pretrained(published, trust_remote_code=False)


@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_yarn_loads_with_its_frequencies(folder, name):
    rope(**{name: "yarn", "factor": 4.0, "original_max_position_embeddings": 8192})(folder)
    rotary = StreamQwenModel.from_pretrained(folder).model.language_model.rotary_emb
    assert rotary.attention_scaling == pytest.approx(0.1 * torch.log(torch.tensor(4.0)).item() + 1)
    plain = 1e4 ** -(torch.arange(0, 16, 2) / 16)
    assert rotary.inv_freq[0] == plain[0]
    assert rotary.inv_freq[-1] == pytest.approx(plain[-1].item() / 4)


def test_shapes_are_compared_for_names_of_both_layouts(published, tmp_path, model):
    """transformers' own names of tensors, as its newer versions have saved them."""
    copy(published, tmp_path / "new")
    for file in SHARDS:
        tensors = load_file(tmp_path / "new" / file)
        (tmp_path / "new" / file).unlink()
        renamed = {
            n.replace("model.", "model.language_model.") if n.startswith("model") else f"model.{n}": t
            for n, t in tensors.items()
        }
        save_file(renamed, tmp_path / "new" / file, {"format": "pt"})
    index = json.loads((tmp_path / "new" / INDEX).read_text())["weight_map"]
    names = {
        n.replace("model.", "model.language_model.") if n.startswith("model") else f"model.{n}": f for n, f in index.items()
    }
    write(tmp_path / "new" / INDEX, {"metadata": {}, "weight_map": names})
    loaded = StreamQwenModel.from_pretrained(tmp_path / "new").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
