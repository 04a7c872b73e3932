"""Published patterns of keys and tokens: the literals they begin with (or contain) and what follows.

Sources: the services' documentation of their token formats and the patterns their partners register with GitHub secret
scanning. A row is (prefixes, pattern of the rest); a third field says how many characters may stand before the literal.
"""

import re

_B64 = r"[A-Za-z0-9_-]"
_AN = r"[A-Za-z0-9]"
_HEX = r"[a-f0-9]"
_START = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))"
"""Not inside a word, or right after an escape such as `\\n` in a string."""

_DECLARED: tuple[tuple[str, str] | tuple[str, str, int], ...] = (
    # clouds
    ("AKIA ASIA ABIA ACCA", r"[0-9A-Z]{16}(?![A-Za-z0-9])"),
    ("AIza", rf"{_B64}{{35}}(?!{_B64})"),
    ("GOCSPX-", rf"{_B64}{{28}}(?!{_B64})"),
    ("ya29.", rf"{_B64}{{30,500}}"),
    ("1//0", rf"{_B64}{{40,200}}"),
    ("AccountKey= SharedAccessKey=", r"([A-Za-z0-9+/]{42,86}={1,2})"),
    ("&sig= ?sig=", r"([A-Za-z0-9%]{43,120}%3D)"),
    ("dop_v1_ doo_v1_ dor_v1_", rf"{_HEX}{{64}}"),
    ("LTAI", rf"{_AN}{{17,21}}(?!{_AN})"),
    ("AKID", rf"{_AN}{{32}}(?!{_AN})"),
    ("v1.0-", rf"{_HEX}{{24}}-{_HEX}{{146}}"),
    ("HRKU-", rf"(?:AA)?{_B64}{{36,60}}"),
    ("fo1_ fm1_ fm2_", r"[A-Za-z0-9_\-+/=,]{43,700}"),
    ("pscale_tkn_ pscale_pw_ pscale_oauth_", r"[\w.\-]{32,64}"),
    ("nfp_", rf"{_AN}{{36}}"),
    ("sbp_", rf"{_HEX}{{40}}"),
    ("tskey-", rf"{_B64}{{16,}}"),
    # code and packages
    ("ghp_ gho_ ghu_ ghs_ ghr_", rf"{_AN}{{36,255}}"),
    ("github_pat_", r"[A-Za-z0-9_]{22,255}"),
    (
        "glpat- gldt- glrt- glcbt- glptt- glft- glimt- glagent- glsoat- glffct-",
        rf"(?=[a-z_-]{{0,19}}[0-9A-Z]){_B64}{{20,300}}",
    ),
    ("npm_", rf"{_AN}{{36}}(?!{_AN})"),
    ("pypi-", rf"{_B64}{{50,}}"),
    ("rubygems_", rf"{_HEX}{{48}}"),
    ("dckr_pat_ dckr_oat_", rf"{_B64}{{27,}}"),
    ("ATATT3 ATCTT3", r"[A-Za-z0-9_\-=]{60,}"),
    ("ATBB", rf"{_AN}{{28,32}}(?!{_AN})"),
    ("AKCp", rf"{_AN}{{60,}}"),
    (".atlasv1.", rf"{_B64}{{60,70}}", 14),
    ("hvs. hvb.", rf"{_B64}{{24,200}}"),
    ("pul-", rf"{_HEX}{{40}}"),
    ("pnu_", rf"{_AN}{{36}}"),
    ("CFPAT-", rf"{_B64}{{43}}"),
    ("figd_", rf"{_B64}{{40,}}"),
    ("PMAK-", rf"{_HEX}{{24}}-{_HEX}{{34}}"),
    ("lin_api_", rf"{_AN}{{40}}"),
    ("ntn_", rf"{_AN}{{40,50}}"),
    ("secret_", rf"(?={_AN}{{0,40}}\d){_AN}{{43}}(?!{_AN})"),
    ("AGE-SECRET-KEY-1", r"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    ("ops_eyJ", rf"{_B64}{{100,}}"),
    # models and data
    ("hf_", rf"(?={_AN}{{0,33}}[A-Z0-9]){_AN}{{30,}}(?![A-Za-z0-9_])"),
    ("api_org_", rf"{_AN}{{34}}(?![A-Za-z0-9_])"),
    ("sk-", rf"(?=[A-Za-z_-]{{0,60}}\d){_B64}{{20,300}}"),
    ("gsk_", rf"{_AN}{{50,60}}"),
    ("xai-", rf"{_AN}{{60,90}}"),
    ("nvapi-", rf"{_B64}{{60,}}"),
    ("r8_", rf"{_AN}{{37}}(?!{_AN})"),
    ("pplx-", rf"{_AN}{{40,60}}"),
    ("lsv2_pt_ lsv2_sk_", rf"{_HEX}{{32}}_{_HEX}{{10}}"),
    ("dapi", rf"{_HEX}{{32}}(?:-\d)?(?!{_AN})"),
    ("glsa_", rf"{_AN}{{32}}_[A-Fa-f0-9]{{8}}"),
    ("glc_", r"[A-Za-z0-9+/]{32,400}={0,2}"),
    ("NRAK- NRII- NRIQ-", rf"{_B64}{{20,45}}"),
    ("NRJS-", rf"{_HEX}{{19}}"),
    ("sntrys_", r"[A-Za-z0-9+/=_]{60,}"),
    ("sntryu_", rf"{_HEX}{{64}}"),
    ("dt0c01.", r"[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    ("dp.pt. dp.st. dp.ct. dp.sa.", r"[A-Za-z0-9._\-]{40,60}"),
    ("aio_", rf"{_AN}{{28}}(?!{_AN})"),
    # messages and mail
    ("xoxa- xoxb- xoxc- xoxd- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp-", r"[A-Za-z0-9-.%]{10,400}"),
    ("hooks.slack.com/services/ hooks.slack.com/workflows/", r"[A-Za-z0-9/]{20,200}"),
    ("discord.com/api/webhooks/ discordapp.com/api/webhooks/", rf"\d{{10,22}}/{_B64}{{60,90}}"),
    (":AA", rf"{_B64}{{33}}(?!{_B64})", 10),
    ("SG.", rf"{_B64}{{16,32}}\.{_B64}{{16,64}}"),
    ("key-", rf"{_HEX}{{32}}(?!{_AN})"),
    ("-us", rf"\d{{1,2}}(?!{_AN})", 32),
    ("xkeysib-", rf"{_HEX}{{64}}-{_AN}{{16}}"),
    (
        " ".join(f"SK{high}{low}" for high in "0123456789abcdef" for low in "0123456789abcdef"),
        rf"{_HEX}{{30}}(?!{_AN})",
    ),
    # money and shops
    ("sk_live_ sk_test_ rk_live_ rk_test_", rf"{_AN}{{16,250}}"),
    ("whsec_", r"[A-Za-z0-9+/]{24,80}"),
    ("sq0atp- sq0csp-", rf"{_B64}{{22,43}}"),
    ("EAAA", rf"{_B64}{{60}}(?!{_B64})"),
    ("EAACEdEose0cBA EAAM EAAC EAAG", rf"{_AN}{{80,300}}"),
    ("shpat_ shpca_ shppa_ shpss_", r"[a-fA-F0-9]{32}"),
    ("EZAK EZTK", rf"{_AN}{{54}}"),
    ("duffel_live_ duffel_test_", rf"{_B64}{{43}}"),
    ("shippo_live_ shippo_test_", rf"{_HEX}{{40}}"),
    ("FLWSECK-", rf"{_AN}{{12,40}}-X"),
    ("access-sandbox- access-production- access-development-", rf"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"),
    ("tfp_", r"[\w.\-]{59}"),
    ("rdme_", r"[a-z0-9]{70}"),
    ("sl.B sl.u", rf"{_B64}{{60,1500}}"),
    # signed statements
    ("eyJ", rf"{_B64}{{8,4000}}\.eyJ{_B64}{{8,8000}}(?:\.{_B64}{{8,2000}})?"),
)

_BEFORE = {".atlasv1.": r"[A-Za-z0-9]{14}", ":AA": r"\d{8,10}", "-us": r"[a-f0-9]{32}"}


def _compiled() -> dict[str, list[tuple[int, re.Pattern[str]]]]:
    patterns: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
    for prefixes, rest, *back in _DECLARED:
        for literal in prefixes.split():
            pattern = re.compile(rf"{_START}{_BEFORE.get(literal, '')}{re.escape(literal)}{rest}")
            patterns.setdefault(literal, []).append((int(back[0]) if back else 0, pattern))
    return patterns


SECRET_PATTERNS = _compiled()
"""Literal -> (characters that may stand before it, the whole pattern)."""
