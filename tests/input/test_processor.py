"""Damaged tokenizers and image settings: one error that names file and remedy."""

import pytest
from checkpoints import POINTER, config, cut, edit, read, settings, several, sizes, without, write

from kvlib import load_processor
from kvlib.checkpoint import check_checkpoint


def no_special_tokens(f):
    edit(f / "tokenizer.json", added_tokens=[])
    write(f / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})


def no_letters(f):
    tokenizer = read(f / "tokenizer.json")
    tokenizer["model"]["vocab"] = {"!": 0}
    write(f / "tokenizer.json", tokenizer)


PROCESSOR = {  # faults of tokenizer or image settings
    "no tokenizer": (without("tokenizer*"), r"no tokenizer\.json.*fetch"),
    "tokenizer.json is cut": (lambda f: cut(f / "tokenizer.json", 300), r"tokenizer\.json.*not valid JSON"),
    "tokenizer.json is an LFS pointer": (lambda f: write(f / "tokenizer.json", POINTER), r"tokenizer\.json.*git lfs pull"),
    "tokenizer.json of something else": (lambda f: write(f / "tokenizer.json", {"a": 1}), r"tokenizer.*fetch it again"),
    "tokenizer_config.json is cut": (lambda f: cut(f / "tokenizer_config.json", 30), r"tokenizer_config\.json.*not valid JSON"),
    "tokenizer_config.json is a list": (lambda f: write(f / "tokenizer_config.json", []), r"tokenizer_config\.json.*list"),
    "no special tokens": (no_special_tokens, r"special tokens \['<\|im_start\|>', .*'<\|vision_end\|>'\].*Qwen2\.5-VL"),
    "a tokenizer without letters": (no_letters, r"tokenizer.*fetch"),
    "vocab.json without merges.txt": (
        several(without("tokenizer.json"), lambda f: write(f / "vocab.json", {"a": 0})), r"no tokenizer\.json"
    ),
    "merges.txt is an LFS pointer": (
        several(without("tokenizer.json"), lambda f: [write(f / "vocab.json", {}), write(f / "merges.txt", POINTER)]),
        r"merges\.txt.*git lfs pull",
    ),
    "ids beyond the vocabulary": (config(vocab_size=261), r"ids up to 261.*vocab_size 261"),
    "no image settings": (without("preprocessor_config.json"), r"no preprocessor_config\.json.*fetch"),
    "image settings in no file": (
        several(without("preprocessor_config.json"), lambda f: write(f / "processor_config.json", {"processor_class": "Q"})),
        r"no preprocessor_config\.json",
    ),
    "preprocessor_config.json is cut": (lambda f: cut(f / "preprocessor_config.json", 50), r"preprocessor_config\.json.*JSON"),
    "preprocessor_config.json is empty": (lambda f: write(f / "preprocessor_config.json", {}), r"preprocessor_config.*fit"),
    "another patch size": (settings(patch_size=16), r"\(16, 2, 2\).*\(14, 2, 2\)"),
    "another model's settings": (
        settings(image_processor_type="CLIPImageProcessor"), r"type CLIPImageProcessor"
    ),
    "limits the wrong way round": (settings(max_pixels=99), r"pixels 3136 to 99"),
    "a deviation of zero": (settings(image_std=[0, 1, 1]), r"preprocessor_config\.json.*fit"),
    "a size that is a number": (sizes(224), r"preprocessor_config\.json.*unusable"),
}  # fmt: skip


@pytest.mark.parametrize("damage, message", PROCESSOR.values(), ids=PROCESSOR)
def test_damaged_tokenizers_and_image_settings_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}") as caught:
        load_processor(folder)
    assert folder.name in str(caught.value)
    with pytest.raises((ValueError, FileNotFoundError)):
        check_checkpoint(folder)
