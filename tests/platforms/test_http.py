"""The door to HTTP: bounded, honest about what may be billed, and silent about keys."""

import asyncio
import socket
import subprocess
import sys
import traceback

import pytest
from yarl import URL

from orchestrai.errors import PlatformError
from orchestrai.platforms.http import LARGEST_LINE, Event, Headers, HttpClient, _EventReader
from orchestrai.testing import Fault, ProviderServer

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
STREAM = BODY[:-1] + b',"stream":true}'
SECRET = "sk-http-0123456789abcdefghijklmnop"


def post(server, body=BODY, **options):
    return run(
        URL(server.base_url + "/chat/completions"), lambda client, url: client.post(url, HEADERS, body), **options
    )


def run(url, work, **options):
    async def closed_after():
        client = HttpClient(**options)
        try:
            return await work(client, url)
        finally:
            await client.close()

    return asyncio.run(closed_after())


HEADERS = Headers({"Authorization": f"Bearer {SECRET}"})


def events(chunks):
    reader = _EventReader()
    return [event for chunk in [*chunks, b"\n\n"] for event in reader.feed(chunk)]


class TestPost:
    def test_a_request_goes_out_once_with_its_body_and_comes_back_whole(self):
        with ProviderServer() as server:
            response = post(server)
            assert response.status == 200
            assert response.headers["X-Request-Id"] == response.headers["x-request-id"] == "req-0"
            assert b"Answer" in response.body
            assert server.requests[0].body == BODY
            assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"

    def test_connections_are_kept(self):
        async def ten(client, url):
            for _ in range(10):
                await client.post(url, HEADERS, BODY)

        with ProviderServer() as server:
            run(URL(server.base_url + "/chat/completions"), ten)
            assert server.stats()["connections"] == 1

    def test_a_body_of_megabytes_travels_byte_equal(self):
        body = BODY.replace(b"hello", b"x" * 3_000_000)
        with ProviderServer() as server:
            assert post(server, body).status == 200
            assert server.requests[0].body == body

    def test_a_status_is_an_answer_and_not_an_error(self):
        with ProviderServer(script=[503]) as server:
            assert post(server).status == 503

    def test_a_redirect_is_not_followed(self):
        with (
            ProviderServer() as other,
            ProviderServer(script=lambda _: Fault("redirect", location=other.base_url)) as server,
        ):
            assert post(server).status == 307
            assert len(server.requests) == 1
            assert other.requests == []

    def test_an_empty_body_is_empty(self):
        with ProviderServer(script=["empty"]) as server:
            assert post(server).body == b""


class TestBounds:
    def test_a_reply_at_the_bound_passes_and_one_byte_more_does_not(self):
        fault = Fault("raw", body=b"x" * 5_000)
        with ProviderServer(script=[fault, fault]) as server:
            assert len(post(server, largest_reply=5_000).body) == 5_000
            with pytest.raises(PlatformError, match="larger than 4,999 bytes") as caught:
                post(server, largest_reply=4_999)
            assert caught.value.kind == "reply"
            assert caught.value.may_be_billed
            assert caught.value.http_status == 200
            assert caught.value.request_id == "req-1"

    def test_a_gzip_bomb_ends_at_the_bound_in_little_memory(self):
        program = """
import asyncio, resource, sys
from yarl import URL
from orchestrai.errors import PlatformError
from orchestrai.platforms.http import Headers, HttpClient
async def main():
    client = HttpClient(largest_reply=4 * 2**20)
    await client.post(URL(sys.argv[1]), Headers({}), b'{"messages":[{"role":"user","content":"warm"}]}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        await client.post(URL(sys.argv[1]), Headers({}), b'{"messages":[{"role":"user","content":"bomb"}]}')
    except PlatformError as error:
        print(error.kind, error.may_be_billed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await client.close()
asyncio.run(main())
"""
        with ProviderServer(script={"bomb": "gzip_bomb"}) as server:
            url = server.base_url + "/chat/completions"
            found = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)
        kind, billed, grown_kib = found.stdout.split()
        assert (kind, billed) == ("reply", "True")
        assert int(grown_kib) < 24 * 1024, "the bomb is 64 MiB"

    def test_what_cannot_be_decompressed_is_told(self):
        fault = Fault("raw", body=b"no gzip at all", headers={"content-encoding": "gzip"})
        with ProviderServer(script=[fault]) as server, pytest.raises(PlatformError, match="decompressed") as caught:
            post(server)
        assert caught.value.kind == "reply"


class TestFailures:
    def test_nobody_there_cannot_be_billed(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(PlatformError) as caught:
            run(URL(f"http://127.0.0.1:{port}/"), lambda client, url: client.post(url, HEADERS, BODY))
        assert (caught.value.kind, caught.value.may_be_billed) == ("connection", False)

    def test_a_name_that_does_not_exist_cannot_be_billed(self):
        with pytest.raises(PlatformError) as caught:
            run(URL("http://no-such-host.invalid/"), lambda client, url: client.post(url, HEADERS, BODY))
        assert (caught.value.kind, caught.value.may_be_billed) == ("connection", False)

    def test_a_connection_that_is_not_accepted_times_out_unbilled(self):
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            waiting = [socket.socket() for _ in range(4)]
            try:
                for one in waiting:
                    one.setblocking(False)
                    one.connect_ex(("127.0.0.1", port))
                with pytest.raises(PlatformError) as caught:
                    run(
                        URL(f"http://127.0.0.1:{port}/"),
                        lambda client, url: client.post(url, HEADERS, BODY),
                        connect_timeout_s=0.2,
                    )
            finally:
                for one in waiting:
                    one.close()
        assert (caught.value.kind, caught.value.may_be_billed) == ("timeout", False)

    @pytest.mark.parametrize("fault", ["cut_body", "reset"])
    def test_a_connection_that_ends_after_sending_may_be_billed(self, fault):
        with ProviderServer(script=[fault, None]) as server:
            with pytest.raises(PlatformError) as caught:
                post(server)
            assert (caught.value.kind, caught.value.may_be_billed) == ("connection", True)
            assert len(server.requests) == 1, "nothing is asked again in silence"

    def test_a_kept_connection_that_died_is_not_asked_again_in_silence(self):
        async def warm_then_reset(client, url):
            await client.post(url, HEADERS, BODY)
            with pytest.raises(PlatformError) as caught:
                await client.post(url, HEADERS, BODY)
            return caught.value

        with ProviderServer(script=[None, "reset", None]) as server:
            error = run(URL(server.base_url + "/chat/completions"), warm_then_reset)
            assert (error.kind, error.may_be_billed) == ("connection", True)
            assert len(server.requests) == 2

    def test_a_cut_error_reply_is_not_billed(self):
        fault = Fault("raw", 500, headers={"content-length": "99"}, body=b"x")
        with ProviderServer(script=[fault]) as server, pytest.raises(PlatformError) as caught:
            post(server)
        assert not caught.value.may_be_billed

    def test_what_is_no_http_is_told(self):
        async def serve_and_post():
            async def nonsense(reader, writer):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
                writer.close()

            listener = await asyncio.start_server(nonsense, "127.0.0.1", 0)
            url = URL(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
            client = HttpClient()
            try:
                await client.post(url, HEADERS, BODY)
            except PlatformError as error:
                return error
            finally:
                await client.close()
                listener.close()

        error = asyncio.run(serve_and_post())
        assert (error.kind, error.may_be_billed) == ("reply", True)

    def test_cancelling_closes_the_connection(self):
        async def cancelled(client, url):
            task = asyncio.create_task(client.post(url, HEADERS, BODY))
            while not server.requests:  # noqa: ASYNC110  # the server is another thread
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with ProviderServer(script=["hang"]) as server:
            run(URL(server.base_url + "/chat/completions"), cancelled)
            server.wait_for(lambda: server.in_flight == 0)
            assert server.stats()["abandoned"] == 1


class TestSecrets:
    def test_sealed_headers_show_names_and_no_values(self):
        assert SECRET not in repr(HEADERS)
        assert "Authorization" in repr(HEADERS)
        assert SECRET not in str(vars(HttpClient()))
        with pytest.raises(TypeError):
            HEADERS.__reduce__()

    @pytest.mark.parametrize("fault", ["reset", "cut_body", "gzip_bomb"])
    def test_no_traceback_with_locals_shows_a_key(self, fault):
        with ProviderServer(script=[fault]) as server, pytest.raises(PlatformError) as caught:
            post(server)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert "HEADERS" in shown or "headers" in shown
        assert SECRET not in shown

    def test_the_control_a_plain_client_does_show_it(self):
        import aiohttp

        async def plain():
            async with aiohttp.ClientSession() as session:
                headers = {"Authorization": f"Bearer {SECRET}"}
                await session.post("http://127.0.0.1:1/", data=BODY, headers=headers)

        with pytest.raises(aiohttp.ClientError) as caught:
            asyncio.run(plain())
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert SECRET in shown


class TestProxies:
    def test_a_proxy_of_the_environment_is_used_for_other_machines_only(self, monkeypatch):
        async def asked(client, url):
            with pytest.raises(PlatformError):
                await client.post(url, HEADERS, BODY)

        with ProviderServer() as server, ProviderServer() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.delenv("no_proxy", raising=False)
            assert post(server).status == 200
            assert proxy.requests == []
            found = run(
                URL("http://provider.invalid/v1/chat/completions"), lambda client, url: client.post(url, HEADERS, BODY)
            )
            assert found.status == 200
            assert proxy.requests[0].path == "http://provider.invalid/v1/chat/completions"

    def test_a_line_of_netrc_does_not_break_a_request(self, monkeypatch, tmp_path):
        (tmp_path / "netrc").write_text("machine provider.invalid login a password b\n")
        with ProviderServer() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            url = URL("http://provider.invalid/v1/chat/completions")
            assert run(url, lambda client, url: client.post(url, HEADERS, BODY)).status == 200
            assert proxy.requests[0].headers["authorization"] == f"Bearer {SECRET}"

    def test_a_proxy_of_another_kind_is_refused_in_words(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        with pytest.raises(PlatformError, match="only http proxies"):
            run(URL("http://provider.invalid/"), lambda client, url: client.post(url, HEADERS, BODY))


class TestEvents:
    def test_events_are_read_wherever_the_chunks_end(self):
        raw = b"\xef\xbb\xbf: comment\r\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\nid: 7\ndata: \xc3\xa9\n\ndata\n\nevent: x\n\ndata: z\r\r"
        whole = [Event("a", b"1\n2"), Event("", "é".encode()), Event("", b""), Event("", b"z")]
        for size in range(1, len(raw) + 1):
            assert events([raw[i : i + size] for i in range(0, len(raw), size)]) == whole

    def test_the_last_event_needs_no_empty_line(self):
        assert events([b"data: [DONE]"]) == [Event("", b"[DONE]")]

    @pytest.mark.parametrize("line", [b"x" * (LARGEST_LINE + 1), b"data: x\n" * (LARGEST_LINE // 1 + 1)])
    def test_an_event_without_end_is_bounded(self, line):
        with pytest.raises(PlatformError, match="event of the stream is larger"):
            events([line])

    def test_leaving_a_stream_closes_it_and_finishing_one_keeps_the_connection(self):
        async def both(client, url):
            async with client.stream(url, HEADERS, STREAM) as opened:
                assert (opened.status, opened.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
                found = []
                while (some := await opened.next_events()) is not None:
                    found += some
            assert found[-1].data == b"[DONE]"
            await client.post(url, HEADERS, BODY)
            assert server.stats()["connections"] == 1
            async with client.stream(url, HEADERS, STREAM):
                pass
            await client.post(url, HEADERS, BODY)
            assert server.stats()["connections"] == 2

        with ProviderServer(piece_s=0.01) as server:
            run(URL(server.base_url + "/chat/completions"), both)


def test_importing_the_platforms_imports_no_http_client():
    program = """
import sys
import orchestrai.platforms.openai, orchestrai.testing.server, orchestrai.testing.scripted, orchestrai.testing.conformance
heavy = {"aiohttp", "pandas", "duckdb", "plotly", "chromadb", "ipywidgets", "IPython", "rich", "pydantic", "tiktoken"}
print(sorted(heavy & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
