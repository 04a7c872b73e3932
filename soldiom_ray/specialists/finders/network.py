"""URLs, e-mail addresses, domains, IP addresses and networks, hardware addresses, ports; also as reports disarm them
(hxxp, [.], (at)), normalised to what they were."""

import ipaddress
import re
from collections.abc import Iterator

from soldiom_ray.specialists.checksums import is_onion_service
from soldiom_ray.specialists.finders import Finding
from soldiom_ray.specialists.finders.names import ENDINGS_BEFORE_DOMAINS, FILE_ENDINGS, TOP_LEVEL_DOMAINS, words

DISARMED_DOT = r"(?: ?[\[({] ?(?:\.|,|[dD][oO][tT]) ?[\])}] ?|\[\.|\.\]|\\\.)"
DOT = rf"(?:{DISARMED_DOT}|[.\u3002])"
LABEL = r"[\w-]{1,63}+"
HOST = rf"{LABEL}(?:{DOT}{LABEL}){{1,40}}+"
AT = r"(?: ?[\[({] ?(?:@|[aA][tT]) ?[\])}] ?|@)"
SCHEME = (
    r"(?:[hH][tTxX*]{2}[pP][sS]?|[sS]?[fF][tTxX][pP][sS]?|wss?|ssh|smb|ldaps?|tcp|udp|rdp|file|socks5?|magnet|data)"
)
URL = re.compile(
    rf"(?<![\w]){SCHEME}(?:\[:\]//|:\[//\]|\[://\]|\(:\)//|:\\\\|://)(?P<rest>[^\s<>\"'`\u2018-\u201f|^]{{1,4096}}+)"
)
HOST_OF_URL = re.compile(
    rf"(?:(?P<user>[^\s/@\[\]]{{1,256}}+)@)?(?P<host>\[[0-9a-fA-F:.%]{{2,64}}\]|{LABEL}(?:{DOT}{LABEL}){{0,40}}+)"
    r"(?P<port>\[?:\]?[0-9]{1,5}(?![0-9]))?"
)
EMAIL = re.compile(rf"(?<![\w.+%-])(?P<box>[\w][\w.+%-]{{0,63}}+){AT}(?P<host>{HOST})")
DOMAIN = re.compile(rf"(?<![\w.@\\/$%=-]){HOST}(?![\w@\\(=])")
DISARMED = re.compile(DISARMED_DOT)
ANY_DOT = re.compile(DOT)

OCTET = r"[0-9]{1,3}+"
IPV4 = re.compile(
    rf"(?<![\w.\-])(?P<address>{OCTET}(?:{DOT}{OCTET}){{3}})"
    r"(?P<tail>/[0-9]{1,2}(?![\w/])|\[?:\]?[0-9]{1,5}(?![\w:]))?"
    r"(?![\w]|\.[0-9]|\-[0-9]|\[\.\][0-9])"
)
IPV6 = re.compile(
    r"(?<![\w:.])(?:\[(?P<boxed>[0-9a-fA-F:.]{2,45}+)(?:%\w{1,16})?\](?P<port>:[0-9]{1,5}(?!\w))?"
    r"|(?P<address>(?=[0-9a-fA-F]{0,4}:)[0-9a-fA-F:.]{2,45}+)(?P<zone>%\w{1,16})?(?P<length>/[0-9]{1,3})?)(?!\w)"
)
VERSION_BEFORE = re.compile(
    r"(?i)(?:\bversions?|\bver|\bv|\brelease|\brev|\bbuild|\bfirmware|\bdriver|\bsection|\bchapter|\bclause|\brfc|\boid"
    r"|\bupdate|\bpatch|[a-z]/|[§^~]|[<>=]=)[\s:.,=]{0,3}(?:number|no\.?|is|of)?[\s:=]{0,2}\Z"
)
MAC = re.compile(
    r"(?<![\w:.\-])(?:(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}"
    r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w:\-]|\.\w)"
)
PORTS = re.compile(
    r"(?i)(?<![\w])(?:(?:tcp|udp)(?: |/|\\)?)?\b(?:dst|dpt|src|spt|source|dest(?:ination)?|local|remote)?[ _]?ports?"
    r"(?: ?number)?(?:[ :=]|is|#|\(){0,4}"
    r"(?P<numbers>[0-9]{1,5}+(?:(?:, ?(?:and |or )?| and | or | & |/)[0-9]{1,5}+){0,15})(?![\w.]\w)"
)
PROTOCOL_PORT = re.compile(
    r"(?i)(?<![\w/])(?:(?:tcp|udp)[/:](?P<after>[0-9]{1,5})|(?P<before>[0-9]{1,5})/(?:tcp|udp))(?!\w)"
)
NUMBER = re.compile(r"[0-9]{1,5}")
TRAILING = ".,;:!?'\"*_)]}>\\\u3001\u3002\uff0c"
PAIRS = {")": "(", "]": "[", "}": "{"}
CODE_NAMES = words(
    "system microsoft windows java javax javascript document window self this os sys io node asp vb ado console"
)
ABBREVIATIONS = words("e.g i.e a.k.a a.m p.m u.s u.k etc.in vs.in")


def find_urls(text: str) -> Iterator[Finding]:
    """URLs with their host, port and the account of `user@` as parts; trailing punctuation of the sentence is not
    theirs."""
    for match in URL.finditer(text):
        end = _end_of_url(text, match.start("rest"), match.end())
        host = HOST_OF_URL.match(text, match.start("rest"), end)
        if not host:
            continue
        parts = tuple(_parts_of_url(text, host))
        if not parts and not text.startswith(("file", "magnet", "data"), match.start()):
            continue
        normalised = _rearm_url(match[0][: end - match.start()])
        yield Finding("url", match.start(), end, normalised, parts=parts)


def find_emails(text: str) -> Iterator[Finding]:
    """E-mail addresses whose domain could exist; the domain is a part. `root@10.0.0.5` is an account, found
    elsewhere."""
    if "@" not in text and not re.search(r"(?i)[\[({] ?at ?[\])}]", text):
        return
    for match in EMAIL.finditer(text):
        start, end = match.span("host")
        domain = _domain(text, start, _trim_host(text, start, end), disarmed="@" not in match[0])
        box = match["box"].rstrip(".")
        if domain and box == match["box"]:
            yield Finding("email", match.start(), domain.end, f"{box}@{domain.normalised}".lower(), "", (domain,))


def find_addresses(text: str) -> Iterator[Finding]:
    """IPv4 and IPv6 addresses, networks (`ipv4_network`) and sockets (`socket_address`, its address and port as
    parts). Numbers that stand where a version would, and octets with leading zeros, are none."""
    if ":" in text:
        for match in IPV6.finditer(text):
            yield from _ipv6(match)
    for match in IPV4.finditer(text):
        address = ".".join(re.findall("[0-9]+", match["address"]))
        before = text[max(0, match.start() - 24) : match.start()]
        if _is_ipv4(address) and (not VERSION_BEFORE.search(before) or DISARMED.search(match["address"])):
            yield _with_tail("ipv4", match, "address", address, match["tail"] or "")


def find_domains(text: str) -> Iterator[Finding]:
    """Bare domains under a known top-level domain, or disarmed ones under any; not names of files, nor dotted names of
    code (System.Net), nor sentences without a space after the stop."""
    for match in DOMAIN.finditer(text):
        end = _trim_host(text, match.start(), match.end())
        domain = _domain(text, match.start(), end, disarmed=False)
        if domain:
            yield domain


def find_hardware_addresses(text: str) -> Iterator[Finding]:
    """MAC addresses, normalised to lower case with colons."""
    for match in MAC.finditer(text):
        digits = re.sub("[^0-9a-f]", "", match[0].lower())
        if "." not in match[0] or re.search("[a-f]", digits):
            yield Finding("mac", *match.span(), ":".join(digits[i : i + 2] for i in range(0, 12, 2)))


def find_ports(text: str) -> Iterator[Finding]:
    """Port numbers after the word port, and as tcp/445 or 445/tcp."""
    for match in PORTS.finditer(text):
        for number in NUMBER.finditer(text, *match.span("numbers")):
            yield from _port(*number.span(), number[0])
    for match in PROTOCOL_PORT.finditer(text):
        group = "after" if match["after"] else "before"
        yield from _port(*match.span(group), match[group])


def _port(start: int, end: int, digits: str) -> Iterator[Finding]:
    if digits[0] != "0" and int(digits) < 65536:
        yield Finding("port", start, end, digits)


def _is_ipv4(address: str) -> bool:
    return all(int(octet) < 256 and (octet == "0" or octet[0] != "0") for octet in address.split("."))


def _with_tail(kind: str, match: re.Match[str], group: str, address: str, tail: str) -> Finding:
    """The address alone, or the network or the socket that its tail makes of it."""
    start, end = match.span(group)
    plain = Finding(kind, start, end, address)
    number = re.sub("[^0-9]", "", tail)
    if tail.startswith("/"):
        if int(number) <= (32 if kind == "ipv4" else 128):
            return Finding(f"{kind}_network", start, match.end(), f"{address}/{number}", "", (plain,))
        return plain
    ports = tuple(_port(match.end() - len(number), match.end(), number)) if number else ()
    if not ports:
        return plain
    boxed = f"[{address}]" if kind == "ipv6" else address
    return Finding("socket_address", match.start(), match.end(), f"{boxed}:{number}", "", (plain, *ports))


def _ipv6(match: re.Match[str]) -> Iterator[Finding]:
    group = "boxed" if match["boxed"] else "address"
    written = match[group]
    if group == "address":
        written = written.rstrip(".") if not written.endswith("::") else written
        if written.endswith(":") and not written.endswith("::"):
            written = written[:-1]
    if written.count(":") < 2 or len(re.sub("[^0-9a-fA-F]", "", written)) < 3:
        return  # "::" and "::1" without brackets stand in code more often than in evidence
    try:
        address = _write_ipv6(written)
    except ValueError:
        return
    if len(written) != len(match[group]):
        start = match.start(group)
        yield Finding("ipv6", start, start + len(written), address)
    else:
        yield _with_tail("ipv6", match, group, address, match["port"] or match["length"] or "")


def _write_ipv6(written: str) -> str:
    """The address as RFC 5952 writes it; ValueError for none. Python before 3.13 writes ::ffff:0:0/96 without stops."""
    address = ipaddress.IPv6Address(written)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def _end_of_url(text: str, start: int, end: int) -> int:
    """Where a URL ends without what belongs to the sentence: trailing marks, and brackets that it does not open."""
    for _ in range(64):
        last = text[end - 1 : end]
        if end <= start or last not in TRAILING:
            break
        opening = PAIRS.get(last)
        if opening and text.count(opening, start, end) >= text.count(last, start, end):
            break
        if last == "]" and text.startswith("[.", end - 2):
            break
        end -= 1
    return end


def _parts_of_url(text: str, match: re.Match[str]) -> Iterator[Finding]:
    start, end = match.span("host")
    host = match["host"]
    address = ANY_DOT.sub(".", host)
    if match["user"]:
        name = match["user"].partition(":")[0]
        yield Finding("account", match.start("user"), match.start("user") + len(name), name)
    if host.startswith("["):
        try:
            yield Finding("ipv6", start + 1, end - 1, _write_ipv6(host[1:-1].partition("%")[0]))
        except ValueError:
            return
    elif re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", address):
        if not _is_ipv4(address):
            return
        yield Finding("ipv4", start, end, address)
    else:
        domain = _domain(text, start, _trim_host(text, start, end), disarmed=True)
        if domain:
            yield domain
        elif not re.fullmatch(r"[A-Za-z0-9][\w-]{0,62}", host):
            return
        else:
            yield Finding("host_name", start, end, host.lower())
    if match["port"]:
        digits = re.sub("[^0-9]", "", match["port"])
        port_end = match.end("port")
        yield from _port(port_end - len(digits), port_end, digits)


def _trim_host(text: str, start: int, end: int) -> int:
    """The end of a host without trailing hyphens and underscores."""
    while end > start and text[end - 1] in "-_":
        end -= 1
    return end


def _domain(text: str, start: int, end: int, *, disarmed: bool) -> Finding | None:
    """The domain in this span. `disarmed` says that where it stands marks it as one (in a URL), as do its own dots."""
    written = text[start:end]
    disarmed = disarmed or DISARMED.search(written) is not None
    labels = ANY_DOT.sub(".", written).split(".")
    top = labels[-1].lower()
    is_known = top in TOP_LEVEL_DOMAINS
    if len(labels) < 2 or any(label[0] in "-" or label[-1] in "-_" for label in labels if label) or not all(labels):
        return None
    if not (is_known or (disarmed and re.fullmatch(r"[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59}", top))):
        return None
    if not disarmed and not _reads_as_domain(labels, top):
        return None
    if top == "onion" and not (len(labels[-2]) == 16 or is_onion_service(labels[-2])):
        return None
    return Finding("domain", start, end, ".".join(labels).lower())


def _reads_as_domain(labels: list[str], top: str) -> bool:
    """Whether plain text with these labels is a domain and not a file, a name in code or the end of a sentence."""
    name = ".".join(labels)
    if top in ENDINGS_BEFORE_DOMAINS and top in FILE_ENDINGS | {"ps", "cc"} and labels[0].lower() != "www":
        return False
    if not (labels[-1].islower() and labels[-2] == labels[-2].lower()) and not name.isupper():
        return False
    if name.isupper() and (top not in ("com", "net", "org") or len(labels[0]) < 4):
        return False
    if labels[0].lower() in CODE_NAMES and len(labels) < 4 and top not in ("com", "org"):
        return False
    return name.lower() not in ABBREVIATIONS and any(c.isalpha() for c in "".join(labels[:-1]))


def _rearm_url(written: str) -> str:
    """The URL with its scheme, colon and the dots of its host as they were before they were disarmed."""
    scheme, _, rest = re.sub(r"\[:\]//|:\[//\]|\[://\]|\(:\)//|:\\\\", "://", written, count=1).partition("://")
    scheme = re.sub(r"^h..p", "http", scheme.lower())
    scheme = re.sub(r"^(s?)fxp", r"\1ftp", scheme)
    host, slash, path = rest.partition("/")
    host = ANY_DOT.sub(".", host).replace("[:]", ":")
    path = re.sub(r"\[\.\]|\(\.\)|\[dot\]", ".", path)
    return f"{scheme}://{host.lower() if '@' not in host else host}{slash}{path}"
