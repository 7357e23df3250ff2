"""Live sources from real servers on the loopback: MPEG-TS over TCP and HTTP, and a pipe."""

import http.server
import os
import socket
import threading
import time
import warnings

import pytest
from films import read_number, steady, write_film

from kvlib.video import VideoChunks, live, opening

RATE = 20  # frames per second of the film


@pytest.fixture
def film(tmp_path):
    """12 s in packets of MPEG-TS."""
    path = write_film(tmp_path / "film.ts", steady(240, RATE), rate=RATE, options={"g": "10", "bf": "0", "crf": "20"})
    return path.read_bytes()


class Broadcast:
    """Sends a film over TCP, from wherever it stands, `speed` times as fast as it plays; can be cut off and brought back. It
    begins when the first one connects."""

    def __init__(self, film: bytes, speed: float, head: bytes = b""):
        self.film, self.speed, self.head = film, speed, head
        self.began, self.on, self.connections = 0.0, True, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def place(self) -> int:
        """The byte that is sent now, at the beginning of a packet."""
        share = (time.monotonic() - self.began) * self.speed / 12
        return min(int(len(self.film) * share), len(self.film)) // 188 * 188

    def cut(self, seconds: float) -> None:
        """Break off now, and refuse connections for so long."""
        self.on = False
        self.server.close()
        time.sleep(seconds)
        self.server, self.on = socket.create_server(("127.0.0.1", self.port)), True
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.on = False
        self.server.close()

    def _serve(self) -> None:
        server = self.server
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self.began = self.began or time.monotonic()
            self.connections += 1
            threading.Thread(target=self._send, args=(connection,), daemon=True).start()

    def _send(self, connection: socket.socket) -> None:
        sent = self.place()
        try:
            if self.head:
                connection.recv(4096)
                connection.sendall(self.head)
            while self.on and sent < len(self.film):
                until = self.place()
                connection.sendall(self.film[sent:until])
                sent = until
                time.sleep(0.02)
        except OSError:
            pass
        finally:
            connection.close()


@pytest.fixture
def broadcast(film, monkeypatch):
    monkeypatch.setattr(live, "GIVE_UP_S", 1.0)
    monkeypatch.setattr(live, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(live, "LONGEST_WAIT_S", 0.1)
    made = []

    def start(speed: float = 8.0, head: bytes = b"") -> Broadcast:
        made.append(Broadcast(film, speed, head))
        return made[-1]

    yield start
    for server in made:
        server.close()


def until_gone(chunks, seen=lambda read: None) -> list:
    """All chunks until the source is gone for good. `seen` is called with those so far after each of them."""
    read = []
    with pytest.raises(ConnectionError, match=r"has given no frame for 1 s"):
        for chunk in chunks:
            read.append(chunk)
            seen(read)
    return read


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"], ids=["tcp", "http"])
def test_a_broadcast_is_read_to_its_end(broadcast, head):
    server = broadcast(head=head)
    chunks = VideoChunks(f"{'http' if head else 'tcp'}://127.0.0.1:{server.port}", 2, 2.0)
    with pytest.raises(TypeError, match="live source"):
        len(chunks)
    read = until_gone(chunks)
    numbers = [read_number(frame) for chunk in read for frame in chunk.frames]
    assert numbers == list(range(numbers[0], 240, 10))[: len(numbers)] and len(numbers) >= 20
    times = [moment for chunk in read for moment in chunk.times]
    assert times == pytest.approx([i / 2 for i in range(len(times))], abs=1e-3)
    assert chunks.dropped == 0


def test_a_source_that_breaks_off_and_comes_back(broadcast):
    server = broadcast(speed=4.0)
    cut = threading.Thread(target=server.cut, args=(0.4,))
    read = until_gone(VideoChunks(f"tcp://127.0.0.1:{server.port}", 1, 4.0), lambda read: len(read) == 5 and cut.start())
    numbers, times = ([read_number(chunk.frames[0]) for chunk in read], [chunk.time_s for chunk in read])
    assert server.connections >= 2
    assert numbers == sorted(numbers) and times == sorted(times) and len(set(times)) == len(times)
    gap = max(range(1, len(numbers)), key=lambda place: numbers[place] - numbers[place - 1])
    assert numbers[gap] - numbers[gap - 1] > 10, "what was sent meanwhile is lost"
    assert 0.3 < times[gap] - times[gap - 1] < 4, "the break counts by the clock"
    assert numbers[-1] > 200


def test_late_chunks_are_dropped_and_counted_or_wait(broadcast):
    for late in ("drop", "wait"):
        server = broadcast()
        chunks = VideoChunks(f"tcp://127.0.0.1:{server.port}", 2, 10.0, late=late)
        slowly = until_gone(chunks, lambda read: time.sleep(0.06 if len(read) < 30 else 0))
        read = [read_number(frame) for chunk in slowly for frame in chunk.frames]
        server.close()
        assert read == sorted(read)
        if late == "drop":
            sampled = round(10 * slowly[-1].time_s) + 1  # from the first frame on, which may be in a dropped chunk
            assert chunks.dropped == sampled - len(read) > 10
            assert read[-1] > 220, "the newest frames are seen"
        else:
            assert chunks.dropped == 0 and read == list(range(read[0], read[-1] + 1, 2))


def test_a_named_pipe_ends_where_its_frames_end(tmp_path, film):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def feed():
        with open(pipe, "wb") as file:
            file.write(film)

    threading.Thread(target=feed, daemon=True).start()
    chunks = VideoChunks(pipe, 2, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [read_number(frame) for _, frames in chunks for frame in frames] == list(range(0, 240, 10))


def test_a_source_that_does_not_answer(broadcast):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"tcp://127.0.0.1:{port} does not answer.*check the address"):
        next(iter(VideoChunks(f"tcp://127.0.0.1:{port}")))
    with pytest.raises(ConnectionError, match="does not answer"):
        next(iter(VideoChunks("http://127.0.0.1:1/video.mp4")))


def sending(content: bytes, seconds: float) -> tuple[str, socket.socket]:
    """The address of a server that sends `content` to the first who connects, and closes the connection `seconds` later."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        connection, _ = server.accept()
        with connection:
            connection.sendall(content)
            time.sleep(seconds)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}", server


@pytest.mark.parametrize(
    ("packets", "seconds"), [(0, 1), (3, 1), (3, 0)], ids=["nothing", "a head and nothing more", "a head and the end"]
)
def test_a_source_that_answers_but_gives_no_frame(film, monkeypatch, packets, seconds):
    """The first three packets of MPEG-TS name the programme and its codec, and hold nothing of a picture."""
    monkeypatch.setattr(opening, "TIMEOUT_S", 0.3)
    address, server = sending(film[: 188 * packets], seconds)
    with server, pytest.raises(ConnectionError, match=f"{address} answers, but gives no frame .*check that it is sending"):
        next(iter(VideoChunks(address)))


def test_a_source_that_sends_no_video(tmp_path):
    address, server = sending(b"<html>Not here.</html>" * 300, 0)
    with server, pytest.raises(ConnectionError, match="answers, but gives no frame .*that what it sends is a video"):
        next(iter(VideoChunks(address)))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(b"no video",), daemon=True).start()
    with pytest.raises(ConnectionError, match="pipe answers, but gives no frame"):
        next(iter(VideoChunks(pipe)))


def test_a_video_behind_a_web_address_ends(tmp_path):
    """A file on a web server says how long it is: its end is the end."""
    write_film(tmp_path / "film.mp4", steady(60, 20), rate=20)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chunks = VideoChunks(f"http://127.0.0.1:{server.server_port}/film.mp4", 2, 2.0)
        assert [read_number(frame) for _, frames in chunks for frame in frames] == list(range(0, 60, 10))
    finally:
        server.shutdown()


@pytest.mark.parametrize("late", ["later", None, True])
def test_late_must_be_known(late):
    with pytest.raises(ValueError, match="give 'wait' or 'drop'"):
        VideoChunks("tcp://127.0.0.1:1", late=late)


def test_a_file_is_never_late(tmp_path):
    path = write_film(tmp_path / "a.mp4", steady(4, 4))
    with pytest.raises(ValueError, match="is for live sources"):
        VideoChunks(path, late="drop")
