"""Which embedding a setting means, and that its vectors are what they were."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import importlib.util
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import finished, orchestrator, upper

from orchestrai import InvalidSettings, PlatformError
from orchestrai.memory import embedding
from orchestrai.memory.chunks import LONGEST, spans
from orchestrai.memory.hashed import HashedEmbedding
from orchestrai.memory.vectors import in_context

WORDLLAMA = pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None, reason="wordllama has no wheel for this system"
)


async def load(setting, **more):
    return await embedding.load({"embedding": setting, **more}, ThreadPoolExecutor(1))


# --- the hashed one


def test_a_hashed_vector_is_the_same_on_every_machine():
    """Another digest here means that every index has to be made anew: give `hashed.VERSION` another number then."""
    vectors = HashedEmbedding(64)(["The ledger is a write-ahead log.", "Ä 汉字 🙂", "", "the of"])
    assert hashlib.sha256(np.round(vectors, 4).tobytes()).hexdigest() == GOLDEN


GOLDEN = "1144005e91e9d2a69cf61b56fbb7fb5649ddb869b662316e24a98650c87640f4"


def test_texts_of_the_same_words_are_near_and_others_are_not():
    near, far, query = embedding.unit(HashedEmbedding(1024)(["Baking breads", "A log is written", "how to bake bread"]))
    assert near @ query > 0.3
    assert abs(far @ query) < 0.1


@given(st.lists(st.text(), max_size=5))
def test_every_text_has_a_vector_of_length_1(texts):
    async def vectors():
        return await (await load("hashed"))(texts)

    found = asyncio.run(vectors())
    assert found.shape == (len(texts), 1024)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)


# --- the learned one


@WORDLLAMA
async def test_meanings_are_found_without_a_common_word():
    made = await load("auto")
    assert made.name == "wordllama"
    query, right, wrong = await made(["physician", "The doctor saw a patient.", "A train leaves the station."])
    assert query @ right > query @ wrong + 0.05
    assert made.dimension == len(query)


@WORDLLAMA
def test_the_learned_one_asks_nobody(tmp_path):
    script = """
        import asyncio, socket, sys
        asked = []
        real = socket.getaddrinfo
        socket.getaddrinfo = lambda *a, **k: asked.append(a) or real(*a, **k)
        connect = socket.socket.connect
        socket.socket.connect = lambda self, address: asked.append(address) or connect(self, address)
        from orchestrai import Orchestrator

        with Orchestrator(sys.argv[1], platforms=[], settings={"memory": {"embedding": "wordllama"}}) as orch:
            async def fill():
                await asyncio.gather(*(orch.memory.add(f"note {i} about bread") for i in range(600)))

            orch.wait(fill())
            orch.wait(orch.memory.search("bread"))
        print("chromadb" in sys.modules, asked)
    """
    assert finished(script, tmp_path).strip() == "True []"


# --- those of others


async def test_a_function_of_a_module_is_an_embedding():
    for setting in ("vowels:count", "vowels:slowly"):
        made = await load(setting)
        assert made.identity == f"{setting} 1 5"
        assert (await made(["aaa", "bee"])).shape == (2, 5)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("vowels:consonants", "no attribute 'consonants'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("vowels:NUMBER", "is no function"),
        ("vowels:", "memory.embedding is"),
        ("vowels:broken", "one vector of finite numbers"),
        ("openai:@http://127.0.0.1/v1", "MODEL@ADDRESS"),
        ("openai:m@ftp://x", "base_url is an address"),
    ],
)
async def test_an_embedding_that_is_none_is_refused(setting, said):
    with pytest.raises(InvalidSettings, match=said):
        await load(setting)


async def test_vectors_of_several_lengths_are_refused():
    with pytest.raises(InvalidSettings, match="one vector of finite numbers"):
        await (await load("vowels:ragged"))(["a", "ab"])
    with pytest.raises(InvalidSettings, match="returned 3 numbers a vector, 9 before"):
        await (await load("vowels:growing"))(["abc"])


class Server(http.server.BaseHTTPRequestHandler):
    """A server of embeddings: the number of e's of each text."""

    seen: list = []  # noqa: RUF012 - of the test
    refusing = False

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        status, reply = 200, {"data": [self.vector(i, text) for i, text in enumerate(body["input"])][::-1]}
        if self.refusing:
            status, reply = 401, {"error": f"wrong key {self.headers.get('Authorization')}"}
        self.send_response(status)
        data = json.dumps(reply).encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def vector(self, i, text):
        return {"index": i, "embedding": [text.count("e") + 1.0, text.count("o") + 1.0, 1.0]}

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.seen, Server.refusing = [], False
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()
    served.server_close()
    thread.join()


async def test_a_server_of_embeddings_is_asked_with_its_own_key_alone(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-alone-0123456789")
    monkeypatch.setenv("EMBEDDING_KEY", "of-this-server")
    setting = {"embedding": f"openai:bge-m3@{server}", "api_key": "env:EMBEDDING_KEY"}
    with orchestrator(tmp_path, upper, memory=setting) as orch:
        ids = [await orch.memory.add(text) for text in ("eeee eeee", "oooo oooo")]
        best, *_ = await orch.memory.search("eeeeeee")
        assert best.memory.id == ids[0]
    assert {(path, key) for path, key, _ in Server.seen} == {("/v1/embeddings", "Bearer of-this-server")}
    assert {body["model"] for _, _, body in Server.seen} == {"bge-m3"}
    Server.seen.clear()
    with orchestrator(tmp_path, upper, memory={"embedding": f"openai:bge-m3@{server}"}) as orch:
        await orch.memory.search("e")
    assert {key for _, key, _ in Server.seen} == {None}


async def test_a_server_that_refuses_is_told_without_the_key(tmp_path, server):
    Server.refusing = True
    setting = {"embedding": f"openai:bge-m3@{server}", "api_key": "short-secret-of-mine"}
    with orchestrator(tmp_path, upper, memory=setting) as orch:
        await orch.memory.add("kept, whatever becomes of its vector")
        with pytest.raises(PlatformError, match="HTTP 401") as raised:
            await orch.memory.search("e")
        assert "short-secret" not in str(raised.value) + repr(orch.settings)
        Server.refusing = False
        assert len(await orch.memory.search("e")) == 1


async def test_a_server_that_is_not_there_is_named(tmp_path):
    with orchestrator(tmp_path, upper, memory={"embedding": "openai:m@http://127.0.0.1:9/v1"}) as orch:
        await orch.memory.add("kept")
        with pytest.raises(PlatformError, match=r"127\.0\.0\.1:9"):
            await orch.memory.search("kept")


async def test_a_key_that_is_not_set_is_named(tmp_path):
    with pytest.raises(InvalidSettings, match="NO_SUCH_KEY is not set"):
        await load("openai:m@http://127.0.0.1:9/v1", api_key="env:NO_SUCH_KEY")


# --- pieces


@given(
    st.text(max_size=5000) | st.integers(0, 4000).map(lambda n: "word. " * n) | st.integers(0, 9000).map("x".__mul__)
)
def test_pieces_leave_nothing_out_and_are_none_too_long(text):
    found = spans(text)
    assert "".join(text[first:last] for first, last in found) == text
    assert all(0 < last - first <= LONGEST for first, last in found)


def test_a_piece_ends_where_a_paragraph_does():
    text = "A sentence of the first. " * 20 + "\n\n" + "A sentence of the second. " * 30
    (_, end), *_ = spans(text)
    assert text[:end].endswith("\n\n")


def test_a_piece_of_its_own_text_stays_nearer_to_itself():
    vectors = embedding.unit(np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32))
    moved = in_context(vectors, None)
    assert np.argmax(moved @ vectors.T, axis=1).tolist() == list(range(5))
    assert np.linalg.norm(moved, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    whole = in_context(vectors, vectors[0])
    assert all(whole[1:] @ vectors[0] > 0.6)
    assert in_context(vectors[:1], None) == pytest.approx(vectors[:1], abs=1e-6)
