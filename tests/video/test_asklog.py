"""The log of answers and the .srt made of them, whatever stops a write and whatever somebody did to the files."""

import pytest

from kvlib.lab.video import asklog
from kvlib.lab.video.asklog import Ask, AskLog
from kvlib.lab.video.subtitles import Subtitle, read_srt

SETTINGS = {"budget": 300}
ASKS = [Ask(1, 1.0, 1.5, "one\ntwo"), Ask(3, 3.0, 3.5, "one"), Ask(5, 5.0, 5.5, "“ü”")]


def filled(out, asks=ASKS):
    log = AskLog(out, SETTINGS)
    for ask in asks:
        log.add(ask)
    return log


def test_answers_and_subtitles_are_there_again(tmp_path):
    out = tmp_path / "out.srt"
    filled(out)
    assert read_srt(out) == [Subtitle(0.5, 2, "two"), Subtitle(0.5, 4, "one"), Subtitle(4, 5.25, "“ü”")]
    again = AskLog(out, dict(SETTINGS))
    assert (again.asks, again.changed, again.finished) == (ASKS, [], False)
    again.finish()
    assert AskLog(out, SETTINGS).finished


def test_the_subtitles_are_those_of_the_answers_so_far(tmp_path):
    out = tmp_path / "out.srt"
    for count in range(1, 4):
        filled(tmp_path / f"{count}.srt", ASKS[:count])
        log = AskLog(out, SETTINGS)
        log.add(ASKS[count - 1])
        assert out.read_text() == (tmp_path / f"{count}.srt").read_text()


def test_a_log_that_is_cut_off_anywhere_gives_the_answers_before(tmp_path):
    """The .srt is then that of a write the log knows, or of none that it knows; never are other answers used."""
    out = tmp_path / "out.srt"
    log = filled(out)
    out.unlink()
    whole = log.path.read_bytes()
    for length in range(len(whole)):
        log.path.write_bytes(whole[:length])
        again = AskLog(out, SETTINGS)
        assert again.asks == ASKS[: whole[:length].count(b'"ask"') - (b'"ask"' in whole[:length].split(b"\n")[-1])]
        assert log.path.read_bytes() == whole[:length], "reading changes nothing"


@pytest.mark.parametrize("settings", [SETTINGS, {"budget": 400}])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_write_that_is_stopped_can_be_repeated(tmp_path, monkeypatch, settings, replaced):
    """Before or after the new .srt is in place: either the old or the new one counts as the log's."""
    out, write = tmp_path / "out.srt", asklog.write_atomic

    def stopped(path, content):
        if path != out or replaced:
            write(path, content)
        if path == out:
            raise KeyboardInterrupt

    filled(out, ASKS[:1])
    before, log = out.read_text(), AskLog(out, settings)
    monkeypatch.setattr(asklog, "write_atomic", stopped)
    with pytest.raises(KeyboardInterrupt):
        log.add(ASKS[1])
    monkeypatch.undo()
    assert (out.read_text() == before) != replaced
    again = AskLog(out, settings)
    kept = ASKS[:2] if settings == SETTINGS else ASKS[1:2]
    assert again.asks == kept and again.changed == []
    again.add(ASKS[2])
    filled(tmp_path / "expected.srt", [*kept, ASKS[2]])
    assert out.read_text() == (tmp_path / "expected.srt").read_text()


def test_other_settings_are_named_and_their_answers_replaced_by_the_first_new_one(tmp_path):
    out = tmp_path / "out.srt"
    filled(out)
    other = AskLog(out, {"budget": 400, "every": 2})
    assert other.changed == ["budget", "every"] and other.asks == []
    assert AskLog(out, SETTINGS).asks == ASKS
    other.add(Ask(0, 0.5, 1.0, "new"))
    assert read_srt(out) == [Subtitle(0.25, 0.75, "new")]
    assert AskLog(out, {"budget": 400, "every": 2}).asks == [Ask(0, 0.5, 1.0, "new")]


@pytest.mark.parametrize(
    "content",
    [
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'{"settings": 1}\n',
        b'{"settings": {}}\n{"ask": {"chunk": 1}}\n',
        b'{"settings": {}}\n5\n',
        b'{"settings": {}}\n{"ask": {"chunk": 1, "time_s": "a", "end_s": 2, "answer": "b"}}\n',
        b'{"settings": {}}\n' + b'{"ask": {"chunk": 1, "time_s": 1, "end_s": 2, "answer": "b"}}\n' * 2,
        b"\xff\n",
    ],
)
def test_a_damaged_log_is_named(tmp_path, content):
    (tmp_path / "out.srt.asks.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"out\.srt\.asks\.jsonl is damaged, .*delete it"):
        AskLog(tmp_path / "out.srt", SETTINGS)


def test_nothing_read_is_an_empty_file(tmp_path):
    log = filled(tmp_path / "out.srt", [Ask(1, 1.0, 1.5, "No text visible")])
    assert log.write_subtitles() == 0 and (tmp_path / "out.srt").read_text() == ""
    assert AskLog(tmp_path / "out.srt", SETTINGS).asks == log.asks
