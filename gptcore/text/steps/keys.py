"""Where credentials stand in a text: tokens that their issuers made recognisable, and private key blocks.

Only forms that hardly anything else has. Passwords are not looked for: `password = "secret"` is nearly always an
example, and nothing tells when it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKENS = {
    # Amazon: identifiers of access keys (IAM user guide, unique identifiers), and a secret beside its name
    "AKIA": r"[A-Z2-7]{16}",
    "ASIA": r"[A-Z2-7]{16}",
    "aws_secret_access_key": r"[\"']?\s{0,3}[=:]\s{0,3}[\"']?[A-Za-z0-9/+]{40}",
    # Alibaba Cloud, Tencent Cloud
    "LTAI": r"(?:[A-Za-z0-9]{20}|[A-Za-z0-9]{12})",
    "AKID": r"[A-Za-z0-9]{32}",
    # GitHub, GitLab
    "ghp_": r"[A-Za-z0-9]{36,251}",
    "gho_": r"[A-Za-z0-9]{36,251}",
    "ghu_": r"[A-Za-z0-9]{36,251}",
    "ghs_": r"[A-Za-z0-9]{36,251}",
    "ghr_": r"[A-Za-z0-9]{36,251}",
    "github_pat_": r"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "glpat-": r"[A-Za-z0-9_-]{20,300}",
    # Slack: tokens, and addresses that let anyone write
    "xox": r"[abeoprs]-(?=[A-Za-z-]{0,40}[0-9])[A-Za-z0-9-]{10,250}",
    "xapp-": r"[0-9]-[A-Za-z0-9-]{20,250}",
    "https://hooks.slack.com/services/": r"[A-Z0-9]{8,14}/[A-Z0-9]{8,14}/[A-Za-z0-9]{20,32}",
    # Google: keys, secrets and tokens of OAuth
    "AIza": r"[A-Za-z0-9_-]{35}",
    "GOCSPX-": r"[A-Za-z0-9_-]{28}",
    "ya29.": r"[A-Za-z0-9_-]{30,2000}",
    # Stripe
    "sk_live_": r"[A-Za-z0-9]{16,250}",
    "sk_test_": r"[A-Za-z0-9]{16,250}",
    "rk_live_": r"[A-Za-z0-9]{16,250}",
    "rk_test_": r"[A-Za-z0-9]{16,250}",
    "whsec_": r"[A-Za-z0-9+/]{32,64}",
    # OpenAI, Anthropic, and those who took over the form: a name, then what no words are
    "sk-": r"(?:(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{20,300}|(?=[A-Za-z]{0,60}[0-9])[A-Za-z0-9]{32,300})",
    # Package indexes, model hubs, mail, bots, hosting
    "npm_": r"[A-Za-z0-9]{36}",
    "pypi-": r"AgE[A-Za-z0-9_-]{50,1000}",
    "hf_": r"[A-Za-z0-9]{30,60}",
    "SG.": r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "dop_v1_": r"[a-f0-9]{64}",
    # JSON Web Token: header and claims are JSON in base64 (RFC 7519, section 3)
    "eyJ": r"[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{10,2000}",
}
"""How a token begins -> what follows."""
_PATTERNS = {
    prefix: re.compile(f"{re.escape(prefix)}(?<![A-Za-z0-9_-]{re.escape(prefix)}){rest}(?![A-Za-z0-9_-])")
    for prefix, rest in _TOKENS.items()
}
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----")
_REST = re.compile(r"(?:(?:\s|\\[nr]|[\"'+,])*[A-Za-z0-9+/=]{16,})*")
"""Lines of base64, also as a string of source code; for a block whose end is missing."""
_LEAST_BODY = 64
"""Characters of base64 in the smallest key, one of an elliptic curve of 256 bits in PKCS #8: a header alone is none."""


def keys(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of every credential."""
    for prefix, pattern in _PATTERNS.items():
        if prefix in text:
            for found in pattern.finditer(text):
                yield found.span()
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    for begin in _BEGIN.finditer(text):
        # The next dashes end the block or begin another one, so that no text is searched twice.
        dashes = text.find("-----", begin.end())
        end = f"-----END {begin[1]}-----"
        if dashes >= 0 and text.startswith(end, dashes):
            stop, close = dashes, dashes + len(end)
        else:
            rest = _REST.match(text, begin.end())
            stop = close = rest.end() if rest else begin.end()
        body = text[begin.end() : stop]
        if sum(map(str.isalnum, body)) >= _LEAST_BODY:
            yield begin.start(), close
