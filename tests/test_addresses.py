"""Which URLs are allowed, in every spelling that somebody tried, and which addresses may be connected to."""

import pytest

from fakeface_jax.errors import ConfigError, OpenError
from fakeface_jax.server.url_policy import AllowList, parse_url

ALLOW = AllowList(hosts=("media.example.org", "*.cdn.example.org", "8.8.8.8", "2606:4700::1111"))


# Addresses.


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",  # IPv4 in its IPv6 form
        "64:ff9b::101:101",  # 1.1.1.1 through NAT64
        "2002:101:101::1",  # 1.1.1.1 through 6to4
    ],
)
def test_public_addresses_are_permitted(address):
    assert AllowList(hosts=()).permits(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",  # metadata of most clouds
        "169.254.170.2",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata
        "168.63.129.16",  # Azure's, at a public address
        "192.0.0.192",  # Oracle's
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "192.88.99.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",  # Teredo with its server at 127.0.0.1
        "2001:0:101:101:0:0:80ff:fffe",  # and with its client there
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1111%1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",  # Amazon's metadata
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "5f00::1",
        "localhost",
        "",
        "2130706433",
        "0177.0.0.1",
    ],
)
def test_addresses_inside_are_not(address):
    assert not AllowList(hosts=()).permits(address)


def test_networks_that_an_operator_names_are_permitted():
    allow = AllowList(hosts=(), allow_networks=("10.1.0.0/16", "fd00:1::/64"))
    assert allow.permits("10.1.2.3")
    assert allow.permits("::ffff:10.1.2.3")
    assert allow.permits("fd00:1::9")
    assert not allow.permits("10.2.0.1")
    assert not allow.permits("fd00:2::9")
    assert not allow.permits("127.0.0.1")


# URLs.


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://media.example.org/a/clip.mp4?x=1#t=5", "media.example.org", 443, "/a/clip.mp4?x=1"),
        ("HTTPS://MEDIA.Example.Org.", "media.example.org", 443, "/"),
        ("https://media.example.org:443/", "media.example.org", 443, "/"),
        ("https://a.b.cdn.example.org/x", "a.b.cdn.example.org", 443, "/x"),
        ("https://8.8.8.8/x", "8.8.8.8", 443, "/x"),
        ("https://[2606:4700:0:0::1111]/x", "2606:4700::1111", 443, "/x"),
        ("https://media.example.org//evil.org/x", "media.example.org", 443, "//evil.org/x"),
    ],
)
def test_urls_are_taken_apart(url, host, port, target):
    location = parse_url(url, ALLOW)
    assert (location.scheme, location.host, location.port, location.target) == ("https", host, port, target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "media.example.org/x",
        "//media.example.org/x",
        "http://media.example.org/x",  # only https is allowed if not said otherwise
        "ftp://media.example.org/x",
        "file:///etc/passwd",
        "gopher://media.example.org/x",
        "concat:https://media.example.org/x",
        "https:media.example.org/x",
        "https:///x",
        "https://",
        "https://example.org/x",
        "https://cdn.example.org/x",  # the names below are allowed, not itself
        "https://evilcdn.example.org/x",
        "https://media.example.org.evil.org/x",
        "https://evil.org/media.example.org",
        "https://evil.org#media.example.org",
        "https://evil.org?.cdn.example.org",
        "https://user@media.example.org/",
        "https://user:password@media.example.org/",
        "https://media.example.org@evil.org/",
        "https://evil.org\\@media.example.org/",
        "https://evil.org\\.cdn.example.org/",
        "https://media.example.org\\@evil.org/",
        "https://media.example.org:8443/",
        "https://media.example.org:80/",
        "https://media.example.org:0/",
        "https://media.example.org:99999/",
        "https://media.example.org:/:443/@",
        "https://media.example.org:443x/",
        "https://media.example.org:-443/",
        "https://media.example.org%2eevil.org/",
        "https://media%2eexample.org/",
        "https://media.example.org%00.evil.org/",
        "https://a..cdn.example.org/",
        "https://-.cdn.example.org/",
        "https://.cdn.example.org/",
        "https://mediaｅxample.org/",
        "https://media。example.org/",
        "https://media.example.org/a b",
        "https://media.example.org/\r\nX: y",
        "https://media.example.org/\t",
        " https://media.example.org/",
        "https://media.example.org/\x00",
        "https://media.example.org/ä",
        "https://[::1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[2606:4700::1111%251]/",
        "https://[2606:4700::1111]evil.org/",
        "https://[media.example.org]/",
        "https://2606:4700::1111/",
        "https://134744072/",  # 8.8.8.8 as one number
        "https://0x08080808/",
        "https://010.8.8.8/",
        "https://8.8.2056/",
        "https://8.8.8.8.cdn.example.org.8/",
        "https://" + "a" * 64 + ".cdn.example.org/",
        "https://" + "a." * 130 + "cdn.example.org/",
        "https://media.example.org/" + "a" * 5000,
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(OpenError) as caught:
        parse_url(url, ALLOW)
    assert "password" not in str(caught.value) or "holds a name or a password" in str(caught.value)
    assert "user" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_are_not_names_below_a_wildcard():
    with pytest.raises(OpenError, match="no valid host"):
        parse_url("https://2130706433/", ALLOW)
    with pytest.raises(ConfigError):
        AllowList(hosts=("*.0.0.1",))


@pytest.mark.parametrize(
    "settings",
    [
        {"hosts": ("*",)},
        {"hosts": ("*.",)},
        {"hosts": ("a.*.org",)},
        {"hosts": ("https://a.org",)},
        {"hosts": ("a.org/x",)},
        {"hosts": ("a.org:443",)},
        {"hosts": ("Ä.org",)},
        {"hosts": ("A.org",)},
        {"hosts": ("",)},
        {"hosts": ("127.1",)},
        {"hosts": (), "schemes": ("file",)},
        {"hosts": (), "ports": (0,)},
        {"hosts": (), "allow_networks": ("10.0.0.1/8",)},
        {"hosts": (), "allow_networks": ("all",)},
    ],
)
def test_lists_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ConfigError):
        AllowList(**settings)


def test_names_come_from_the_path_and_are_only_shown():
    def name(path):
        return parse_url(f"https://media.example.org/{path}", ALLOW).name

    assert name("a/clip.mp4?b=/c.mp4") == "clip.mp4"
    assert name("") == "media.example.org"
    assert name("a/") == "media.example.org"
    assert name("%2e%2e%2f%2e%2e%2fetc%2fpasswd") == "passwd"
    assert name("..%5c..%5cwin.ini") == "win.ini"
    assert name("a%0d%0aX%3a%20y") == "a\\r\\nX: y"
    assert name("a%E2%80%AEgpj.mp4") == "a\\u202egpj.mp4"
    assert name("caf%C3%A9.mp4") == "café.mp4"
    assert len(name("a" * 1000)) <= 200
    shown = parse_url("https://media.example.org/a?token=secret", ALLOW).shown
    assert shown == "https://media.example.org/a"
