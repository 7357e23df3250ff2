"""Prompts are read from a clone by their names, and nothing of it is run."""

import hashlib

import pytest

from kvlib.lab.benchmarks.templates import Clone

CODE = '''
import os
os._exit(1)
NAME = "old {}"
NAME = """new {} and
{}"""
OTHER = NAME.format("x", "y")
def build(item, options):
    text = ""
    text += "first "
    text += f"at {item['when']}: {options[0]} or {options[1]}, {item}"
    count = "how often did " + item + "?"
'''


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "prompts.py").write_text(CODE)
    return Clone(tmp_path, "owner/name")


def test_a_constant_is_the_last_of_its_name_and_takes_texts_with_braces(clone):
    assert clone.template("prompts.py", "NAME").format("{}", "{1}") == "new {} and\n{1}"
    assert clone.files == {"prompts.py": hashlib.sha256(CODE.encode()).hexdigest()}


def test_an_expression_takes_its_values_by_key_index_and_name(clone):
    assert clone.template("prompts.py", "count", "item").fill(item="jump") == "how often did jump?"
    told = clone.template("prompts.py", "text", "when", "options_0", "options_1", "item")
    assert told.fill(when="0:01", options_0="a", options_1="b", item="c") == "at 0:01: a or b, c"
    assert [found.parts for found in clone.templates("prompts.py", "text")][:2] == [(("", ""),), (("first ", ""),)]


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda clone: clone.template("absent.py", "NAME"), FileNotFoundError, "no absent.py in .*clone of .*owner/name"),
        (lambda clone: clone.template("prompts.py", "OTHER"), ValueError, "no text OTHER"),
        (lambda clone: clone.template("prompts.py", "count", "name"), ValueError, "no text count with name"),
        (lambda clone: clone.template("prompts.py", "NAME").format("one"), ValueError, "has 2 places for 1 texts"),
        (lambda clone: Clone(clone.folder / "absent", "owner/name"), FileNotFoundError, "give --repo a clone"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(clone, ask, error, message):
    with pytest.raises(error, match=message):
        ask(clone)


def test_what_is_not_python_is_named(tmp_path):
    (tmp_path / "prompts.py").write_text("<<<<<<< HEAD")
    with pytest.raises(ValueError, match="prompts.py is not valid Python.*check out the clone again"):
        Clone(tmp_path, "owner/name").template("prompts.py", "NAME")
