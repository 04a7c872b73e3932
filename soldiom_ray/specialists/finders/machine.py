"""Paths of Windows and POSIX systems, registry keys, file names, accounts, security identifiers, processes, mutexes."""

import re
from collections.abc import Iterator

from soldiom_ray.specialists.finders import Finding
from soldiom_ray.specialists.finders.names import FILE_ENDINGS, names_of, words

WINDOWS_ROOT = re.compile(
    r"(?<![\w\\/%$])(?:[A-Za-z]:(?:\\\\|\\)(?!\\)|\\\\[?.]\\(?:[A-Za-z]:\\)?|\\\\(?=[\w.-]{1,64}\\)"
    r"|%[A-Za-z][\w()]{1,40}%\\{1,2}"
    r"|\$(?:env:)?[A-Za-z]\w{1,40}\\{1,2}|\\(?:SystemRoot|Device|Windows)\\)"
)
HIVES = {
    "HKLM": "HKEY_LOCAL_MACHINE",
    "HKCU": "HKEY_CURRENT_USER",
    "HKCR": "HKEY_CLASSES_ROOT",
    "HKU": "HKEY_USERS",
    "HKCC": "HKEY_CURRENT_CONFIG",
}
REGISTRY_ROOT = re.compile(
    r"(?i)(?<![\w\\])(?:(?P<hive>HKEY_(?:LOCAL_MACHINE|CURRENT_USER|CLASSES_ROOT|USERS|CURRENT_CONFIG)"
    r"|HK(?:LM|CU|CR|CC|U)):?"
    r"(?:\\\\|[\\/])|\\REGISTRY\\(?P<kernel>MACHINE|USER)\\"
    r"|\\?(?P<bare>SOFTWARE(?=\\{1,2}\w{2})|SYSTEM(?=\\{1,2}(?:CurrentControlSet|ControlSet00)))\\{1,2})"
)
PLACEHOLDER = r"<[\w -]{1,40}>"
SEGMENT = re.compile(rf"(?:[^\\/:*?\"<>|\x00-\x1f\u201c\u201d\u2018;,\[\]=]|{PLACEHOLDER}){{1,200}}+")
BARE_SEGMENT = re.compile(rf"(?:[^\\/:?\"<>|\s\x00-\x1f\u201c\u201d\u2018\u2019;,\[\]=`']|{PLACEHOLDER}){{1,200}}+")
REGISTRY_SEGMENT = re.compile(r"(?:[^\\\"<>|\x00-\x1f\u201c\u201d\u2018;,\[\]=]|\[[A-Z]{1,8}\]){1,200}+")
BARE_REGISTRY_SEGMENT = re.compile(r"[^\\\"<>|\s\x00-\x1f\u201c\u201d\u2018\u2019;,\[\]=`']{1,200}+")
SEPARATORS = re.compile(r"\\{1,2}|/(?=\w)")
MAX_SEGMENTS = 64
SPACED_NAMES = names_of(
    "program files|program files (x86)|documents and settings|start menu|windows nt|local settings|application data"
    "|common files|windows defender|internet explorer|microsoft office|user shell folders|shell folders|my documents"
    "|active setup|installed components|image file execution options|session manager|browser helper objects|all users"
    "|default user|system volume information|temporary internet files|terminal server client|google chrome|user data"
    "|windows mail|microsoft shared|safe mode|known dlls|control panel|windows script host|terminal server"
    "|security packages|internet settings|wow6432 node|windows search|recent items|saved games"
)
JOINING_WORDS = words(
    "and or to in into from with as then via is was are were using under by at on for which that where when within of"
    " und oder nach von mit in et ou vers dans avec"
)

POSIX_ROOTS = (
    "etc|usr|var|tmp|home|root|opt|bin|sbin|dev|proc|sys|Users|Applications|Library|System|private|mnt|media|srv|lib"
    "|lib64|boot|run|data|sdcard|Volumes|storage|snap|cores|Network"
)
UNMISTAKABLE_ROOTS = words("tmp etc root home var usr opt proc")
POSIX_PATH = re.compile(
    rf"(?<![\w/.\\:~$%}}-])(?:(?:/(?:{POSIX_ROOTS})(?=/|(?![\w.-]))|~[\w-]{{0,32}}(?=/)|\$HOME(?=/)|\.{{1,2}}(?=/[\w.]))"
    r"(?:/{1,2}(?:[\w.+@%#{}~*=,:-]|\\ ){1,255}+){0,64}+/?)(?![\\])"
)
TRAILING = ".,;:!?'\"*)]}`\u3001\u3002"
FILE_START = re.compile(r"(?<![\w.@\\/%$~+-])[\w$~][\w$~+.-]{1,250}+(?![@(\\/])")

WELL_KNOWN_ACCOUNT = re.compile(
    r"(?i)(?<![\w\\])(?:NT AUTHORITY\\{1,2}(?:SYSTEM|(?:LOCAL|NETWORK) SERVICE|ANONYMOUS LOGON)|BUILTIN\\{1,2}\w{1,40}"
    r"|NT SERVICE\\{1,2}\w{1,64}|Window Manager\\{1,2}DWM-[0-9]{1,3})(?![\w\\])"
)
DOMAIN_ACCOUNT = re.compile(
    r"(?<![\w\\/:.%$-])(?P<domain>[A-Za-z0-9][A-Za-z0-9.-]{0,63}+)\\{1,2}"
    r"(?P<name>[A-Za-z0-9._][\w.$-]{0,63}+)(?![\w\\/:*])"
)
ACCOUNT_BEFORE = re.compile(
    r"(?i)(?:users?|accounts?|log[io]ns?|logged (?:in|on)|as|by|username|credentials? (?:of|for)|run ?as"
    r"|-u|/u(?:ser)?:?|administrators?)"
    r"(?: name)?[\s:=\"'(]{1,4}\Z"
)
NOT_DOMAINS = words(
    "system32 syswow64 windows system software microsoft currentversion programs appdata roaming local temp users"
    " public programdata desktop downloads documents startup drivers tasks services hklm hkcu hkey_local_machine"
    " classes run pipe machine controlset001 currentcontrolset wbem fonts winevt logs and or yes true bin obj src"
)
MARKED_ACCOUNT = re.compile(
    r"(?i)(?<![\w-])(?:(?:(?:target|subject)?user(?:[ _]?name)?|account(?:[ _]?name)?|log[io]n(?:[ _]?name)?|acct"
    r"|ruser|euser) ?[=:] ?[\"'\u201c]?(?=(?P<equal>[A-Za-z_][\w.$-]{0,63}))"
    r"|\bfor (?:invalid |illegal )?user (?=(?P<session>[A-Za-z_][\w.$-]{0,63}))"
    r"|(?:accepted|failed) (?:password|publickey|keyboard-interactive(?:/pam)?|none) for (?:invalid user )?"
    r"(?=(?P<auth>[A-Za-z_][\w.$-]{0,63}) from)"
    r"|\binvalid user (?=(?P<invalid>[A-Za-z_][\w.$-]{0,63}) from))"
)
HOST_ACCOUNT = re.compile(
    r"(?<![\w.+%@/-])(?P<name>[A-Za-z_][\w.-]{0,31}+)@(?P<host>[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
    r"|(?=[\w-]{1,63}:[~/$#])[\w-]{1,63})(?![\w.]\w)"
)
NOT_ACCOUNTS = words(
    "local domain name id the a an is was not unknown null none for by to and or in on of with agent from"
)
SID = re.compile(r"(?<![\w-])[sS]-1-(?:[0-9]{1,10}|0x[0-9a-fA-F]{12})(?:-[0-9]{1,10}){1,15}+(?![\w-])")
PROCESS_ID = re.compile(
    r"(?i)(?<![\w])(?:p?pid|(?:new |parent |target |source |creator )?process[ _]?id(?:entifier)?)"
    r"(?: (?:is|of|was))?[\s:=#(\"']{1,3}(?P<number>0x[0-9a-f]{1,8}|[0-9]{1,10}+)(?![\w.]\w)"
)
SYSLOG_PROCESS = re.compile(r"(?<![\w./-])[A-Za-z_][\w./()-]{1,47}\[(?P<number>[0-9]{1,7})\]:")
MUTEX = re.compile(
    r"(?i)\bmut(?:ex(?:es)?|ant)(?: (?:object|name|named|called|of|with|the|a|name:|value)){0,4}[:=]? ?"
    r"(?:[\"'\u201c\u2018`](?P<quoted>[^\"'\u201c\u201d\u2018\u2019`\r\n]{2,128})[\"'\u201d\u2019`]"
    r"|(?P<plain>(?:Global|Local)\\{1,2}[\w{}.-]{2,128}))"
)
KERNEL_OBJECT = re.compile(r"(?<![\w\\])(?:Global|Local)\\{1,2}[\w{}.-]{2,128}+(?![\w\\])")


def find_registry_keys(text: str) -> Iterator[Finding]:
    """Registry keys, also without their hive where they begin with SOFTWARE or SYSTEM; normalised to the long hive
    and single backslashes. A value named after the key with a space is not part of it."""
    position = 0
    while match := REGISTRY_ROOT.search(text, position):
        end = _follow(
            text, match.end(), REGISTRY_SEGMENT, BARE_REGISTRY_SEGMENT, quote=_quote_before(text, match.start())
        )
        position = max(end, match.end())
        if end > match.end():
            rest = re.sub(r"\\{2,}", r"\\", text[match.end() : end])
            yield Finding("registry_key", match.start(), end, _long_root(match) + rest)


def find_windows_paths(text: str) -> Iterator[Finding]:
    """Paths with a drive, a share (\\\\server\\share), a device or an environment variable at their beginning. Spaces
    belong to a path inside quotes, before a further backslash, and before a known ending; else it ends there."""
    position = 0
    while match := WINDOWS_ROOT.search(text, position):
        end = _follow(text, match.end(), SEGMENT, BARE_SEGMENT, quote=_quote_before(text, match.start()))
        position = max(end, match.end())
        if end > match.end():
            written = text[match.start() : end]
            head = "\\\\" if written.startswith("\\\\") else written[:1]
            normalised = head + re.sub(r"\\{2,}", r"\\", written[len(head) :])
            yield Finding("windows_path", match.start(), end, normalised, parts=_file_of(text, match.start(), end))


def find_posix_paths(text: str) -> Iterator[Finding]:
    """Absolute paths under a folder that POSIX systems have at their root, paths of a home (~) and ./relative ones."""
    if "/" not in text:
        return
    for match in POSIX_PATH.finditer(text):
        end = match.end()
        while end > match.start() + 2 and text[end - 1] in TRAILING:
            end -= 1
        written = text[match.start() : end]
        if "/" in written[1:] or written[1:] in UNMISTAKABLE_ROOTS:
            normalised = re.sub("/{2,}", "/", written.replace("\\ ", " "))
            yield Finding("posix_path", match.start(), end, normalised, parts=_file_of(text, match.start(), end))


def find_file_names(text: str) -> Iterator[Finding]:
    """Names with an ending of a known type of file, without spaces."""
    for match in FILE_START.finditer(text):
        written = match[0].rstrip(".-_+")
        name, _, ending = written.rpartition(".")
        if ending.lower() not in FILE_ENDINGS or not name.strip("."):
            continue
        if ending != ending.lower() and ending != ending.upper():
            continue
        if name.lower() in ("node", "vue", "react", "asp", "d3", "next") and ending.lower() in ("js", "net"):
            continue  # Node.js is a product
        yield Finding("file_name", match.start(), match.start() + len(written), written)


def find_accounts(text: str) -> Iterator[Finding]:
    """Accounts as DOMAIN\\user, as user@address of a login, and after words that logs and reports mark them with."""
    for match in WELL_KNOWN_ACCOUNT.finditer(text):
        yield Finding("account", *match.span(), re.sub(r"\\+", r"\\", match[0]))
    for match in DOMAIN_ACCOUNT.finditer(text):
        if _is_domain_account(text, match):
            name = match["name"].rstrip(".-")
            yield Finding("account", match.start(), match.start("name") + len(name), f"{match['domain']}\\{name}")
    for match in HOST_ACCOUNT.finditer(text):
        yield Finding("account", *match.span("name"), match["name"])
    for match in MARKED_ACCOUNT.finditer(text):
        group = match.lastgroup or "equal"
        start = match.start(group)
        name = match[group].rstrip(".-")
        if name.lower() not in NOT_ACCOUNTS and not text.startswith("\\", start + len(name)):
            yield Finding("account", start, start + len(name), name)


def find_security_identifiers(text: str) -> Iterator[Finding]:
    """Security identifiers of Windows (S-1-5-21-...)."""
    for match in SID.finditer(text):
        yield Finding("sid", *match.span(), match[0].upper().replace("0X", "0x"))


def find_processes(text: str) -> Iterator[Finding]:
    """Numbers of processes, marked as such (pid 4711, ProcessId=0x1a4) or after a name at a log line's tag
    (sshd[4711]:); normalised to decimal."""
    for pattern in (PROCESS_ID, SYSLOG_PROCESS):
        for match in pattern.finditer(text):
            number = match["number"]
            base = 16 if number[:2] in ("0x", "0X") else 10
            yield Finding("process_id", *match.span("number"), str(int(number, base)))


def find_mutexes(text: str) -> Iterator[Finding]:
    """Mutexes by name: quoted after the word, or in the kernel's name spaces Global and Local."""
    for match in MUTEX.finditer(text):
        group = "quoted" if match["quoted"] else "plain"
        yield Finding("mutex", *match.span(group), match[group].replace("\\\\", "\\"))
    for match in KERNEL_OBJECT.finditer(text):
        if re.search(r"(?i)mut(?:ex|ant)", text[max(0, match.start() - 60) : match.end() + 40]):
            yield Finding("mutex", *match.span(), match[0].replace("\\\\", "\\"))


def _quote_before(text: str, start: int) -> str:
    return {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "`": "`"}.get(text[start - 1 : start], "")


def _follow(text: str, start: int, spaced: re.Pattern[str], bare: re.Pattern[str], quote: str) -> int:
    """Where the path that goes on at `start` ends; `start` where nothing goes on."""
    end = position = start
    for _ in range(MAX_SEGMENTS):
        segment = spaced.match(text, position) or bare.match(text, position)
        if not segment:
            return end
        stop = segment.end()
        separators = SEPARATORS.match(text, stop)
        if separators and _is_one_name(segment[0]):
            end = position = separators.end()
            continue
        if quote and (close := text.find(quote, position, stop + 1)) >= position:
            return close if close > position else end
        plain = bare.match(text, position)
        if not plain:
            return end
        return _end_of_name(text, position, plain.end(), stop)
    return end


def _is_one_name(segment: str) -> bool:
    """Whether a segment with spaces between two backslashes is one folder's name, not words between two paths."""
    if " " not in segment:
        return True
    if segment.lower() in SPACED_NAMES:
        return True
    parts = segment.split(" ")
    if segment != segment.strip() or len(parts) > 6 or any(part.lower() in JOINING_WORDS for part in parts):
        return False
    return not any(part.rpartition(".")[2].lower() in FILE_ENDINGS and "." in part for part in parts[:-1])


def _end_of_name(text: str, start: int, bare_end: int, spaced_end: int) -> int:
    """The end of the last name: at the first space, unless it goes on as a known name, or with capitals up to a known
    ending within four words."""
    if "." not in text[start:bare_end]:
        for following in list(re.finditer(r"[^ ]+", text[start:spaced_end]))[1:5]:
            word = following[0].rstrip(TRAILING)
            end = start + following.start() + len(word)
            ending = word.rpartition(".")[2].lower()
            if text[start:end].lower() in SPACED_NAMES or (word != ending and ending in FILE_ENDINGS):
                return end
            if word.lower() in JOINING_WORDS or not (word[:1].isupper() or word[:1].isdigit()):
                break
    end = bare_end
    while end > start and text[end - 1] in TRAILING:
        if text[end - 1] == ")" and "(" in text[start:end]:
            break
        if text[end - 1] == "}" and "{" in text[start:end]:
            break
        if text[start:end] == "*":
            break  # all files of the folder
        end -= 1
    return end


def _long_root(match: re.Match[str]) -> str:
    if match["hive"]:
        return HIVES.get(match["hive"].upper(), match["hive"].upper()) + "\\"
    if match["kernel"]:
        return {"MACHINE": "HKEY_LOCAL_MACHINE\\", "USER": "HKEY_USERS\\"}[match["kernel"].upper()]
    return match["bare"] + "\\"


def _file_of(text: str, start: int, end: int) -> tuple[Finding, ...]:
    """The file at the end of a path, where its ending is a known one."""
    name = re.split(r"[\\/]", text[start:end])[-1]
    stem, _, ending = name.rpartition(".")
    if stem and ending.lower() in FILE_ENDINGS:
        return (Finding("file_name", end - len(name), end, name),)
    return ()


def _is_domain_account(text: str, match: re.Match[str]) -> bool:
    domain, name = match["domain"], match["name"]
    ending = name.rpartition(".")[2].lower()
    if domain.lower() in NOT_DOMAINS or name.lower() in NOT_DOMAINS or ("." in name and ending in FILE_ENDINGS):
        return False
    if ACCOUNT_BEFORE.search(text[max(0, match.start() - 24) : match.start()]):
        return True
    return len(domain) <= 15 and domain == domain.upper() and any(c.isalpha() for c in domain) and not name.isdigit()
