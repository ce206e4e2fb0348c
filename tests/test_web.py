"""Pages behind addresses: what is asked of whom, what is refused, what a kill costs, what text comes out."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from test_corpus import build
from web_server import Answer, WebServer, cut, drip, html, moved, reset, text, web_server

from gptcore.config import Corpus
from gptcore.config_sources import EXECUTION_OF_SOURCES, Web
from gptcore.text import manners
from gptcore.text.addresses import BadAddress, joined, parse_address
from gptcore.text.documents import Document, Problem, read, write
from gptcore.text.http_get import Client, Deadline, Failure, Reply
from gptcore.text.manners import Manners
from gptcore.text.page_store import PageStore
from gptcore.text.retry_after import retry_after_s
from gptcore.text.robots import read_robots
from gptcore.text.safe_address import PrivateAddress, Unresolved, checked_addresses, is_public
from gptcore.text.site_pages import MAX_DEPTH
from gptcore.text.sitemaps import read_site_map
from gptcore.text.sources import read_unit, resolve_source, source_units
from gptcore.text.web import _IDENTITY
from gptcore.text.web_problems import WEB_PROBLEMS


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(manners, "FIRST_PAUSE_S", 0.01)
    with web_server() as server:
        yield server


def source(**fields: Any) -> Web:
    quick = {"snapshot": "one", "delay_s": 0.0, "page_seconds": 5.0, "allow_private": True, "max_delay_s": 1.0}
    return Web(kind="web", **{**quick, **fields})


def items(scratch: Path, said: list[str] | None = None, done: int = 0, **fields: Any) -> list[Document | Problem]:
    asked = source(**fields)
    (unit,) = source_units(asked, resolve_source(asked, scratch / "cache"))
    unit = json.loads(json.dumps(unit))  # as a worker gets it

    def tell(message: dict[str, Any]) -> None:
        if said is not None and "say" in message:
            said.append(message["say"])

    return list(read_unit(unit, "web", 100_000, scratch, tell, done).items)


def outcomes(found: list[Document | Problem]) -> list[str]:
    """The path of a document, the kind of a problem."""
    return [item.kind if isinstance(item, Problem) else item.id.rpartition("/")[2] for item in found]


def paths(server: WebServer, *names: str) -> tuple[str, ...]:
    return tuple(server.url + name for name in names)


# the source


def test_a_page_is_its_main_text_with_title_date_and_licence(server: WebServer, tmp_path: Path) -> None:
    server.answers["/a?b=1"] = html("Bridge")
    (page,) = items(tmp_path, pages=paths(server, "/a?b=1#part"), licence="CC-BY-4.0")
    assert isinstance(page, Document)
    url = f"{server.url}/a?b=1"
    assert (page.id, page.source, page.group) == (f"web/{url}", "web", url)
    assert (page.title, page.date, page.licence) == ("Bridge", "2021-03-04", "CC-BY-4.0")
    assert "rebuilt after the flood" in page.text
    assert "Menu entry" not in page.text and "footer" not in page.text
    assert read(write(page)) == page
    assert server.requests[-1][2]["User-Agent"] == "gptmill"


def test_what_a_document_lacks_is_not_written() -> None:
    line = write(Document("i", "s", "g", None, None, "t"))
    assert set(json.loads(line)) == {"group", "id", "name", "package", "source", "text"}
    assert read(line) == Document("i", "s", "g", None, None, "t")


def test_every_way_to_fail_is_counted_under_its_name_in_the_order_of_the_list(
    server: WebServer, tmp_path: Path
) -> None:
    big = b"<html><body><p>" + b"x" * 300_000
    ways = {
        "/good": (html("Good"), "good"),
        "/gone": (Answer(status=410), "not_found"),
        "/missing": (Answer(status=404), "not_found"),
        "/forbidden": (Answer(status=403), "refused"),
        "/image": (Answer(b"\x89PNG", headers={"Content-Type": "image/png"}), "not_html"),
        "/br": (Answer(b"x", headers={"Content-Type": "text/html", "Content-Encoding": "br"}), "refused"),
        "/badgzip": (Answer(b"x" * 99, headers={"Content-Encoding": "gzip"}), "refused"),
        "/big": (Answer(big), "too_large"),
        "/bomb": (Answer(gzip.compress(b"\0" * 30_000_000), headers={"Content-Encoding": "gzip"}), "too_large"),
        "/members": (Answer(gzip.compress(b"") * 5000, headers={"Content-Encoding": "gzip"}), "too_large"),
        "/loop": (moved("/loop"), "too_many_redirects"),
        "/mailto": (moved("mailto:someone@example.org"), "bad_address"),
        "/port": (moved("http://127.0.0.1:1/"), "bad_address"),
        "/down": (Answer(status=503), "unreachable"),
        "/cut": (Answer(act=cut), "unreachable"),
        "/blank": (Answer(b"<html><body></body></html>"), "no_text"),
        "/moved": (moved("/good"), "moved"),
        "/plain.txt": (text("Just\ntext"), "plain.txt"),
    }
    server.answers.update({path: answer for path, (answer, _) in ways.items()})
    found = items(tmp_path, pages=paths(server, *ways), max_page_bytes=200_000, attempts=2)
    assert outcomes(found) == [expected for _, expected in ways.values()]
    assert {item.kind for item in found if isinstance(item, Problem)} <= {*WEB_PROBLEMS, "no_text"}
    assert server.asked.count("/down") == 2 and server.asked.count("/missing") == 1
    assert server.asked.count("/loop") == 6, "five redirects are followed"
    before = len(server.requests)
    again = items(tmp_path, pages=paths(server, *ways), max_page_bytes=200_000, attempts=2)
    assert again == found and len(server.requests) == before, "a page that failed for good is not asked for again"
    rest = items(tmp_path, done=5, pages=paths(server, *ways), max_page_bytes=200_000)
    assert rest == found[5:]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "unreachable"),
        (b"\x00\xff" * 500, "unreachable"),
        (b"HTTP/1.1 999999 Odd\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "unreachable"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nabc", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nContent-Type: ;;=\xff\r\n\r\n", "no_text"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset*=x'y'%ff%fe\r\n\r\n<p>x", "no_text"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "bad_address"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "refused"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "refused"),
        ("HTTP/1.1 302 Found\r\nLocation: /é\r\n\r\n".encode(), "a"),
    ],
)
def test_answers_that_are_no_http_are_problems_and_no_errors(
    server: WebServer, tmp_path: Path, raw: bytes, expected: str
) -> None:
    server.answers.update({"/a": Answer(act=lambda handler: handler.wfile.write(raw) and None), "/%C3%A9": html("E")})
    assert outcomes(items(tmp_path, pages=paths(server, "/a"), attempts=1)) == [expected]


@pytest.mark.parametrize("bad", [Answer(act=reset), Answer(act=cut), Answer(status=500), Answer(status=408)])
def test_what_passes_is_tried_again(server: WebServer, tmp_path: Path, bad: Answer) -> None:
    server.answers["/a"] = [bad, bad, html("A")]
    assert outcomes(items(tmp_path, pages=paths(server, "/a"))) == ["a"]
    assert server.asked == ["/a"] * 3


def test_a_server_says_when_to_come_back(server: WebServer, tmp_path: Path) -> None:
    busy = Answer(status=429, headers={"Retry-After": "1"})
    long = Answer(status=429, headers={"Retry-After": "100000"})
    server.answers.update({"/a": [busy, html("A")], "/b": [long, html("B")]})
    assert outcomes(items(tmp_path / "a", pages=paths(server, "/a"), max_delay_s=5.0)) == ["a"]
    started = time.monotonic()
    assert outcomes(items(tmp_path / "b", pages=paths(server, "/b"), max_delay_s=0.3)) == ["b"]
    assert time.monotonic() - started < 20, "no longer than max_delay_s"
    times = [at for path, at, _ in server.requests if path == "/a"]
    assert times[1] - times[0] >= 1.0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None and retry_after_s("-1") is None


def test_a_body_that_drips_ends_with_the_page_s_time(server: WebServer, tmp_path: Path) -> None:
    server.answers.update({"/slow": Answer(act=drip), "/a": html("A")})
    started = time.monotonic()
    found = items(tmp_path, pages=paths(server, "/slow", "/a"), page_seconds=0.4, attempts=1)
    assert outcomes(found) == ["too_slow", "a"]
    assert time.monotonic() - started < 10


def test_a_host_that_is_silent_is_not_waited_for_page_by_page(server: WebServer, tmp_path: Path) -> None:
    names = [f"/{n}" for n in range(30)]
    server.answers.update({name: Answer(status=500) for name in names})
    assert outcomes(items(tmp_path, pages=paths(server, *names), attempts=1)) == ["unreachable"] * 30
    assert len(server.asked) == 5


def test_pauses_are_kept_for_each_host_and_hosts_do_not_wait_for_each_other(server: WebServer, tmp_path: Path) -> None:
    names = [f"/{n}" for n in range(4)]
    server.answers.update({name: html(name) for name in names})
    here, there = server.url, server.url.replace("127.0.0.1", "localhost")
    found = items(tmp_path, pages=tuple(host + name for host in (here, there) for name in names), delay_s=0.2)
    assert outcomes(found) == ["0", "1", "2", "3"] * 2

    def times(host: str) -> list[float]:
        return [at for _, at, headers in server.requests if headers["Host"].startswith(host)]

    for host in ("127.0.0.1", "localhost"):
        asked = times(host)
        assert len(asked) == 5, "robots.txt is asked for once"
        assert min(after - before for before, after in pairwise(asked)) >= 0.2
    assert times("localhost")[0] < times("127.0.0.1")[1], "at once"


def test_a_crawl_delay_counts_up_to_a_limit(server: WebServer, tmp_path: Path) -> None:
    server.answers.update({"/a": html("A"), "/b": html("B")})
    server.answers["/robots.txt"] = text("User-agent: *\nCrawl-delay: 3600\n")
    items(tmp_path, pages=paths(server, "/a", "/b"), max_delay_s=0.3)
    (_, first, _), (_, second, _) = server.requests[1:]
    assert 0.3 <= second - first < 30


def test_a_turn_is_one_request_at_a_time() -> None:
    turns = Manners(0.5, 1.0)
    with turns.turn("a"):
        pass
    ended = time.monotonic()
    with turns.turn("b"):
        assert time.monotonic() - ended < 0.4
    with turns.turn("a"):
        assert time.monotonic() - ended >= 0.49
    turns.stop()
    with pytest.raises(manners.Stopped), turns.turn("a"):
        pass


# robots.txt

RULES = b"""\xef\xbb\xbf# a comment
User-agent: OtherBot
Disallow: /

user-agent: GPTmill/2.0  # the product token counts
User-agent: third
Disallow: /private
Allow: /private/open
Disallow: /*.pdf$
Disallow: /tie
Allow: /tie
Disallow: /a%7Eb
Disallow: /\xc3\xa9
Disallow: /q*x*y$
Crawl-delay: 2.5

User-agent: *
Disallow: /everything

User-agent: gptmill
Disallow: /later
"""


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/", True),
        ("/private", False),
        ("/private/x", False),
        ("/private/open/x", True),
        ("/x.pdf", False),
        ("/x.pdf?y", True),
        ("/tie", True),
        ("/a~b", False),
        ("/%C3%A9t%C3%A9", False),
        ("/everything", True),
        ("/later", False),
        ("/robots.txt", True),
        ("/q-x-y", False),
        ("/q-x-y-y", False),
        ("/q-y-x", True),
        ("/qxxy", False),
    ],
)
def test_the_longest_rule_of_our_groups_counts(target: str, allowed: bool) -> None:
    rules = read_robots(RULES, "gptmill")
    assert rules.allows(target) is allowed
    assert rules.crawl_delay_s == 2.5


def test_odd_robots_files() -> None:
    assert not read_robots(RULES, "nobody").allows("/everything")
    assert read_robots(RULES, "nobody").allows("/private")
    assert read_robots(b"User-agent: *\nDisallow:\n", "gptmill").allows("/x")
    assert read_robots(b"Disallow: /\n", "gptmill").allows("/x"), "no group, no rule"
    assert read_robots(bytes(range(256)) * 100, "gptmill").allows("/x")
    late = b"User-agent: *\nDisallow: /a\n" + b"#" * 600_000 + b"\nDisallow: /b\n"
    assert not read_robots(late, "gptmill").allows("/a") and read_robots(late, "gptmill").allows("/b")
    stars = read_robots(b"User-agent: *\nDisallow: /" + b"*a" * 4000 + b"$\n", "gptmill")
    started = time.process_time()
    assert stars.allows("/" + "a" * 3999 + "b")
    assert time.process_time() - started < 1


def test_a_site_s_robots_file_is_obeyed(server: WebServer, tmp_path: Path) -> None:
    server.answers.update({"/no/a": html("A"), "/yes": html("B"), "/over": moved("/no/a")})
    server.answers["/robots.txt"] = text("User-agent: gptmill\nDisallow: /no")
    found = items(tmp_path, pages=paths(server, "/no/a", "/yes", "/over"))
    assert outcomes(found) == ["forbidden_by_robots", "yes", "forbidden_by_robots"]
    assert server.asked == ["/yes", "/over"]


@pytest.mark.parametrize(("status", "expected"), [(403, "a"), (404, "a"), (500, "unreachable"), (429, "unreachable")])
def test_without_a_robots_file_all_is_allowed_unless_it_cannot_be_had(
    server: WebServer, tmp_path: Path, status: int, expected: str
) -> None:
    server.answers.update({"/a": html("A"), "/robots.txt": Answer(status=status)})
    assert outcomes(items(tmp_path, pages=paths(server, "/a"), attempts=1)) == [expected]
    assert server.asked == ["/a"] * (expected == "a")


# addresses


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("HTTP://Example.ORG:80/a b#c", "http://example.org/a%20b"),
        ("https://example.org", "https://example.org/"),
        ("https://example.org:8443?x=é", "https://example.org:8443/?x=%C3%A9"),
        ("http://bücher.example/100%", "http://xn--bcher-kva.example/100%25"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]/"),
        ("  http://example.org/%7Ea  ", "http://example.org/%7Ea"),
    ],
)
def test_an_address_has_one_form(written: str, normal: str) -> None:
    assert str(parse_address(written)) == normal
    assert str(parse_address(normal)) == normal


@pytest.mark.parametrize(
    "written",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user:secret@example.org/",
        "http://example.org@other.org/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://exa mple.org/",
        "http://example.org\\@other.org/",
        "http://example.org/\x00",
        "http://[::1/",
        "http://" + "a" * 300 + ".org/",
        "http://example.org/" + "a" * 9000,
        "http://example.org/\ud800",
        "/relative",
        "",
    ],
)
def test_what_is_no_address_of_a_page_is_refused_before_any_work(written: str, tmp_path: Path) -> None:
    with pytest.raises(BadAddress) as refused:
        resolve_source(source(pages=(written,)), tmp_path)
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_a_location_is_read_from_where_it_was_given() -> None:
    base = parse_address("https://example.org/a/b?c")
    assert str(joined(base, "../d")) == "https://example.org/d"
    assert str(joined(base, "//other.org/x")) == "https://other.org/x"
    with pytest.raises(BadAddress):
        joined(base, "http://[broken/")


PRIVATE = [
    "127.0.0.1",
    "127.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::",
    "2001:0:1::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("ip", PRIVATE)
def test_no_private_address_is_public(ip: str) -> None:
    assert not is_public(ip)
    with pytest.raises(PrivateAddress, match="no public address"):
        checked_addresses("a.example", 80, allow_private=False, seconds=5, resolver=lambda *_: ["93.184.215.14", ip])
    found = checked_addresses("a.example", 80, allow_private=True, seconds=5, resolver=lambda *_: [ip])
    assert found == [ip]


def test_public_addresses_are() -> None:
    assert all(map(is_public, ("93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")))


def test_names_are_resolved_once_and_the_checked_address_is_asked(server: WebServer) -> None:
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["203.0.113.1"]

    server.answers["/a"] = html("A")
    client = Client(True, resolver, frozenset({server.server_port}))
    address = parse_address(f"http://rebinding.example:{server.server_port}/a")
    assert client.get(address, Deadline(5), 100_000).status == 200
    assert asked == ["rebinding.example"]
    assert server.requests[0][2]["Host"] == f"rebinding.example:{server.server_port}"


def test_names_that_lead_nowhere(server: WebServer) -> None:
    def nothing(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    def hangs(host: str, port: int) -> list[str]:
        server.release.wait(20)
        return []

    for resolver in (nothing, hangs):
        with pytest.raises(Unresolved, match=r"^a\.example: "):
            checked_addresses("a.example", 80, allow_private=False, seconds=0.1, resolver=resolver)
    with pytest.raises(Failure) as failure:
        Client(resolver=nothing).get(parse_address("http://a.example/"), Deadline(1), 1)
    assert failure.value.kind == "unreachable" and failure.value.passing


def test_private_hosts_are_not_asked(server: WebServer, tmp_path: Path) -> None:
    port = server.server_port
    ways = [f"http://{host}:{port}/a" for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:7f00:1]")]
    found = items(tmp_path, pages=tuple(ways), allow_private=False, attempts=1)
    assert outcomes(found) == ["private_address"] * len(ways)
    assert server.requests == []


def test_a_redirect_into_a_private_network_is_not_followed(server: WebServer) -> None:
    from gptcore.text.polite_fetch import Fetcher, Limits

    class Public(Client):
        """Takes the server for a public one, and every other address for what it is."""

        def get(self, address: Any, deadline: Deadline, max_bytes: int) -> Any:
            inside = address.host == "public.example"
            return Client(inside, lambda *_: ["127.0.0.1"], self.ports).get(address, deadline, max_bytes)

    server.answers["/a"] = moved(f"http://inside.example:{server.server_port}/secret")
    client = Public(ports=frozenset({server.server_port}))
    fetcher = Fetcher(client, Manners(0, 1), Limits(5, 1, 1000))
    with pytest.raises(Failure) as failure:
        fetcher.fetch(parse_address(f"http://public.example:{server.server_port}/a"))
    assert failure.value.kind == "private_address"
    assert server.asked == ["/a"]


def test_a_certificate_is_held_against_the_name_and_not_the_address(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(b"".join(self_signed("right.example")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    named: list[str] = []
    context.sni_callback = lambda _, name, __: named.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.answers["/a"] = html("A")
    client = Client(True, lambda *_: ["127.0.0.1"], frozenset({server.server_port}))

    def get(host: str) -> Reply:
        return client.get(parse_address(f"https://{host}:{server.server_port}/a"), Deadline(5), 100_000)

    assert get("right.example").status == 200
    with pytest.raises(Failure, match="no valid certificate") as failure:
        get("wrong.example")
    assert failure.value.kind == "refused" and not failure.value.passing
    assert named == ["right.example", "wrong.example"]


def self_signed(name: str) -> tuple[bytes, bytes]:
    """(certificate, key) as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return certificate.public_bytes(encoding), key.private_bytes(encoding, form, serialization.NoEncryption())


# site maps


def urlset(*urls: str) -> bytes:
    rows = "".join(f"<url><loc> {url} </loc><lastmod>2020-01-01</lastmod></url>" for url in urls)
    return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{rows}</urlset>'.encode()


def index(*urls: str) -> bytes:
    rows = "".join(f"<sitemap><loc>{url}</loc></sitemap>" for url in urls)
    return f'<?xml version="1.0"?><sitemapindex xmlns="http://x">{rows}</sitemapindex>'.encode()


def test_pages_of_site_maps_follow_those_that_are_named(server: WebServer, tmp_path: Path) -> None:
    names = [f"/{n}" for n in range(6)]
    server.answers.update({name: html(name) for name in names})
    zero, one, two, three, four, five = paths(server, *names)
    server.answers["/index.xml"] = Answer(index(*paths(server, "/a.xml", "/b.xml.gz", "/gone.xml", "/index.xml")))
    server.answers["/a.xml"] = Answer(urlset(two, one, "https://other.example/x", "mailto:x@y.example", one))
    server.answers["/b.xml.gz"] = Answer(gzip.compress(urlset(three)))
    server.answers["/list.txt"] = Answer(f"{four}\n\n{five}\n".encode())
    fields = {"pages": (zero,), "sitemaps": paths(server, "/index.xml", "/list.txt")}
    found = items(tmp_path / "all", **fields)
    assert outcomes(found) == ["0", "2", "1", "other_host", "bad_address", "3", "not_found", "4", "5"]
    said: list[str] = []
    assert outcomes(items(tmp_path / "cut", said, **fields, max_pages=2)) == ["0", "2"]
    assert said == ["web: only the first 2 pages are taken, as max_pages says"]


def test_site_maps_nest_so_deep_and_no_deeper(server: WebServer, tmp_path: Path) -> None:
    for depth in range(5):
        server.answers[f"/{depth}.xml"] = Answer(index(f"{server.url}/{depth + 1}.xml"))
    assert outcomes(items(tmp_path, sitemaps=paths(server, "/0.xml"))) == ["too_large"]
    assert server.asked == [f"/{depth}.xml" for depth in range(MAX_DEPTH)]


def test_a_site_map_that_cannot_be_had_ends_the_run_in_one_line(server: WebServer, tmp_path: Path) -> None:
    for body in (b"<html><body>no</body></html>", b"<urlset><url>", b"hello", b""):
        server.answers["/map.xml"] = Answer(body)
        with pytest.raises(ValueError, match=r"site map http.*map\.xml: .*; run again, or take it out of"):
            items(tmp_path, sitemaps=paths(server, "/map.xml"))
    with pytest.raises(ValueError, match=r"gone\.xml: the server answers 404"):
        items(tmp_path, sitemaps=paths(server, "/gone.xml"))


def test_site_map_bombs_do_not_go_off(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    secret = tmp_path / "secret"
    secret.write_text("http://secret.example/")
    doctype = f'<!DOCTYPE x [<!ENTITY e0 "http://x.example/">{levels}<!ENTITY file SYSTEM "{secret}">]>'
    bomb = "{}<urlset><url><loc>{}</loc></url><url><loc>http://x.example/?a&amp;b</loc></url></urlset>"
    started = time.process_time()
    with pytest.raises(ValueError, match="amplification"):
        read_site_map(bomb.format(doctype, "&e9;").encode())
    assert time.process_time() - started < 1
    assert read_site_map(bomb.format(doctype, "&file;").encode()).pages == ["http://x.example/?a&b"]
    with pytest.raises(Failure, match="once unpacked"):
        read_site_map(gzip.compress(b"<urlset>" + b" " * 60_000_000, 1))
    with pytest.raises(ValueError):
        read_site_map(b"<urlset>" + b"<url>" * 100_000)
    many = read_site_map(urlset(*(f"http://x.example/{n}" for n in range(50_010))))
    assert len(many.pages) == 50_000


# resuming

READER = """
import json, sys
from pathlib import Path
from gptcore.text.sources import read_unit
unit, scratch = json.loads(sys.argv[1]), Path(sys.argv[2])
list(read_unit(unit, "web", 1000, scratch, lambda _: None).items)
"""


def test_a_killed_run_fetches_only_what_is_missing(server: WebServer, tmp_path: Path) -> None:
    names = [f"/{n}" for n in range(12)]
    server.answers.update({name: html(f"Page {name}") for name in names})
    server.answers["/map.xml"] = Answer(urlset(*paths(server, *names)))
    asked = source(sitemaps=paths(server, "/map.xml"), delay_s=0.1)
    (unit,) = source_units(asked, resolve_source(asked, tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", READER, json.dumps(unit), str(tmp_path)], env=environment)
    deadline = time.monotonic() + 30
    while len(server.asked) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = list(server.asked)
    assert 6 <= len(before) < len(names)
    said: list[str] = []
    found = items(tmp_path, said, sitemaps=paths(server, "/map.xml"))
    assert outcomes(found) == [name[1:] for name in names]
    twice = set(before) & set(server.asked[len(before) :])
    assert len(twice) <= 1, "at most the page that was under way is fetched again"
    assert len(said) == 1 and said[0].startswith("web: going on")
    assert items(tmp_path / "anew", sitemaps=paths(server, "/map.xml")) == found


def test_another_snapshot_fetches_anew(server: WebServer, tmp_path: Path) -> None:
    server.answers["/a"] = [html("Old"), html("New")]
    pages = paths(server, "/a")
    titles = [items(tmp_path, pages=pages, snapshot=name)[0] for name in ("one", "one", "two")]
    assert [page.title for page in titles if isinstance(page, Document)] == ["Old", "Old", "New"]


def test_a_version_is_the_snapshot_and_the_addresses_and_needs_no_request(server: WebServer, tmp_path: Path) -> None:
    def version(**fields: Any) -> dict[str, Any]:
        return resolve_source(source(**fields), tmp_path)

    first = version(pages=paths(server, "/a", "/b"))
    assert first == version(pages=paths(server, "/b", "/a"))
    assert first["snapshot"] == "one" and len(first["addresses"]) == 64
    assert first != version(pages=paths(server, "/a"))
    assert first != version(sitemaps=paths(server, "/a", "/b"))
    assert server.requests == []
    with pytest.raises(ValueError, match="names no address; give pages, sitemaps or both"):
        source()
    fields = set(Web.model_fields) - {"kind", "licence", "weight"}
    assert fields == {*_IDENTITY, *EXECUTION_OF_SOURCES["web"]}


def test_pages_go_into_a_corpus_and_their_problems_onto_its_data_card(server: WebServer, tmp_path: Path) -> None:
    names = [f"/{n}" for n in range(8)]
    server.answers.update({name: html(f"Page {name}") for name in names})
    server.answers["/robots.txt"] = text("User-agent: *\nDisallow: /7")
    asked = source(pages=paths(server, *names, "/gone"))
    said: list[str] = []
    build(tmp_path / "corpus", Corpus(sources=(asked,), validation_share=0.1), on_say=said.append)
    card = json.loads((tmp_path / "corpus" / "data_card.json").read_bytes())
    assert card["found"] == 7 and sum(card["documents"].values()) == 7
    assert {kind for kind, count in card["dropped"].items() if count} == {"forbidden_by_robots", "not_found"}
    assert f"skipped 1 not found: {server.url}/gone (the server answers 404)" in said


# the store


def test_a_store_loses_what_is_torn_and_nothing_else(tmp_path: Path) -> None:
    def fill(names: str) -> None:
        with PageStore(tmp_path, segment_bytes=400) as store:
            for name in names:
                store.put(name, {"n": name}, name.encode() * 5)

    fill("abcdef")
    segments = sorted(tmp_path.iterdir())
    assert len(segments) > 1
    whole = {path: path.read_bytes() for path in segments}
    last = segments[-1]
    for size in range(len(whole[last])):
        last.write_bytes(whole[last][:size])
        with PageStore(tmp_path) as store:
            kept = [name for name in "abcdef" if name in store]
            assert "abcdef".startswith("".join(kept)) and len(kept) < 6
            assert all(store.get(name) == ({"n": name, "name": name}, name.encode() * 5) for name in kept)
            store.put("new", {}, b"x")
        with PageStore(tmp_path) as store:
            assert store.get("new")[1] == b"x"
            assert [name for name in "abcdef" if name in store] == kept
        last.write_bytes(whole[last])
    damaged = bytearray(whole[segments[0]])
    damaged[-1] ^= 1
    segments[0].write_bytes(damaged)
    with PageStore(tmp_path) as store:
        lost = [name for name in "abcdef" if name not in store]
    assert len(lost) == 1
    fill("".join(lost))
    with PageStore(tmp_path) as store:
        assert all(store.get(name)[1] == name.encode() * 5 for name in "abcdef")
        last.unlink()
        segments[0].write_bytes(b"gone")
        with pytest.raises(ValueError, match="is damaged; run again"):
            store.get("a")
