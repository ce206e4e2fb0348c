"""What is masked and what is not, on texts marked by hand, and the time that hostile text takes."""

# ruff: noqa: RUF001
from __future__ import annotations

import random
import re
import string
import time

import pytest
from pydantic import ValidationError

from gptcore.config_steps import Mask
from gptcore.text.steps import mask
from gptcore.text.steps.step import Kept

HEX = "0123456789abcdef"
LETTERS = string.ascii_letters + string.digits


def drawn(length: int, alphabet: str = LETTERS) -> str:
    """A made-up secret; put together here, so that no scanner takes this file for a leak."""
    return "".join(random.Random(length).choices(alphabet, k=length))


# What stands between ⟦ and ⟧ is to be masked as the kind before it.
EMAIL = [
    "Write to ⟦jane.doe+news@mail.example.co.uk⟧.",
    "<⟦a@b.io⟧>, mailto:⟦x_y%z@sub-domain.example.com⟧?subject=Hi",
    "联系我：⟦zhang.san@163.com⟧，谢谢。邮箱是⟦12345678@qq.com⟧吗？",
    "⟦UPPER.CASE@EXAMPLE.ORG⟧, ⟦o-brien@example.org⟧; --⟦foo@bar.dev⟧",
    "the decorator @app.route, y = x @ w, q@k.T, q@k.transpose(1, 2), a@self.weight",
    "icon@2x.png, left-pad@1.3.0, lodash@4.17.21.tgz, git@github.com:owner/repo.git, @handle, user@localhost",
]
IP = [
    "server ⟦72.14.234.100⟧, over ⟦72.14.234.100⟧, TLSv ⟦72.14.234.100⟧",
    "from ⟦93.184.216.34⟧:8080 to http://⟦52.95.110.1⟧/index and ⟦203.0.114.9⟧.",
    "服务器地址是⟦47.96.12.185⟧，端口22",
    "ranges ⟦81.2.69.142⟧-⟦81.2.69.160⟧ and ⟦81.2.69.0⟧/24",
    "resolver ⟦2606:4700:4700::1111⟧, [⟦2a00:1450:4009:81f::200e⟧]:443, ⟦2001:4860:0:0:0:0:0:8888⟧.",
    "0.0.0.0, 127.0.0.1, 10.20.30.40, 192.168.1.100, 172.16.254.1, 192.0.2.44, 255.255.255.0, 224.0.0.251",
    "v1.2.3.4, version 1.2.30.44, numpy==1.26.40.1, release 22.10.4.1, 版本号：2.0.50.7, lib-91.2.33.4.tar.gz",
    "section 3.2.1.4, 1.1.1.1, 8.8.8.8, 1.3.6.1.4.1.311.21, 300.1.2.3, 01.22.33.044, 1.22.33.44.55, /1.22.30.4/lib",
    'requests<2.31.20.7, x > 4.30.20.1, "minimum": "3.46.0.6", 177.0.0.1, 72.14.234.100-rc1, 72.14.234.100.5',
    "<⟦72.14.234.100⟧> ip=⟦72.14.234.100⟧, ⟦72.14.234.100⟧-",
    "::1, fe80::1ff:fe23:4567:890a, 2001:db8::8a2e:370:7334, std::x, x[2000::2], 12:30:45, 2024:01:02, 3fff::1:2:3",
]
PHONE = [
    "call ⟦+1 (212) 555-0123⟧ or ⟦(212) 555-0123⟧, ⟦212-555-0123⟧, ⟦212.555.0123⟧, ⟦1-800-555-0199⟧",
    "⟦+44 20 7946 0958⟧, ⟦+49 (0)30 901820⟧, ⟦+33 1 23 45 67 89⟧, ⟦+8613812345678⟧, ⟦+86 138-1234-5678⟧",
    "手机⟦13812345678⟧，座机⟦010-12345678⟧，⟦(0755)12345678⟧，分机⟦021-87654321-801⟧。",
    "请拨打 ⟦138 1234 5678⟧ 或 ⟦400-810-8888⟧；⟦159-8765-4321⟧；⟦86-13912345678⟧",
    'Tel: ⟦030/123456-7⟧, fax ⟦020 7946 0958⟧, "phone": "⟦5551234567⟧", 电话：⟦87654321⟧, Telephone No. ⟦0123 456789⟧',
    "2024-01-02, 2024-01-02 12:30:45, 01/02/2024, 20240102, 1609459200, 1609459200000, 2024-01-02T03:04:05.123456",
    "ISBN 978-0-306-40615-7, 0-306-40615-2, 9787111123456, arXiv:2101.12345v2, doi:10.1145/3292500.3330701, RFC 2119",
    "13812345678 rows, 12345678901 bytes, 0.13812345678, 3.14159265358979, 1,234,567,890, 0x13812345678, a13812345678b",
    "550e8400-e29b-41d4-a716-446655440000, d41d8cd98f00b204e9800998ecf8427e, 0755-12, 100-200-300, x+10000000000",
    "+1.5e10, +0800, +10 20 30 40 50, [1 2 3 4 5 6 7 8 9 10], 1 000 000 000, telephone numbers of 10 digits, 127-0-0-1",
]
KEY = [
    f"aws ⟦AKIA{drawn(16, string.ascii_uppercase)}⟧ and ⟦ghp_{drawn(36)}⟧",
    f"token=⟦github_pat_{drawn(22)}_{drawn(59)}⟧; ⟦glpat-{drawn(20)}⟧",
    f"⟦xoxb-{drawn(12, string.digits)}-{drawn(24)}⟧ ⟦AIza{drawn(35)}⟧ '⟦sk_live_{drawn(24)}⟧'",
    f"密钥是⟦sk-{drawn(48)}⟧，还有⟦sk-proj-{drawn(60)}⟧，⟦sk-ant-api03-{drawn(80)}⟧",
    f"⟦npm_{drawn(36)}⟧ ⟦pypi-AgEIcHlwaS5vcmc{drawn(80)}⟧ ⟦hf_{drawn(34)}⟧ ⟦LTAI{drawn(20)}⟧ ⟦AKID{drawn(32)}⟧",
    f"Bearer ⟦eyJ{drawn(30)}.eyJ{drawn(80)}.{drawn(43)}⟧",
    f"⟦aws_secret_access_key = {drawn(40)}⟧\n⟦https://hooks.slack.com/services/{'T' * 9}/{'B' * 9}/{drawn(24)}⟧",
    f"⟦-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{drawn(64)}\n{drawn(64)}==\n"
    "-----END RSA PRIVATE KEY-----⟧",
    f'key = "⟦-----BEGIN PRIVATE KEY-----\\n{drawn(64)}\\n{drawn(30)}⟧", cut off',
    "-----BEGIN PRIVATE KEY----- begins a key, -----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN CERTIFICATE-----\n{drawn(64)}\n-----END CERTIFICATE-----",
    f"sha {drawn(40, HEX)} {drawn(64, HEX)}, task-sk-learn-something-for-a-long-time-2024, sk-{'abc-' * 12}",
    "AKIA, AKIAshort, npm_config_registry, hf_hub_download, ghp_xxx, eyJhbGciOiJIUzI1NiJ9, xoxb-your-token-here",
    'password = "hunter2", API_KEY=your-api-key, sk_live_..., pypi-server, AIza',
]
MARKED = [
    (kind, text) for kind, texts in {"email": EMAIL, "ip": IP, "phone": PHONE, "key": KEY}.items() for text in texts
]


def plain(marked: str) -> str:
    return re.sub("[⟦⟧]", "", marked)


@pytest.fixture(scope="module")
def step():
    return mask.make(Mask(kind="mask"))


@pytest.mark.parametrize(("kind", "marked"), MARKED)
def test_marked_texts(step, kind, marked):
    expected, count = re.subn("⟦[^⟧]*⟧", f"<{kind.upper()}>", marked)
    text = plain(marked)
    kept = step(text)
    assert kept == Kept(expected, {kind: count} if count else {})
    assert step(kept.text) == Kept(kept.text)
    if not count:
        assert kept.text is text


def test_only_what_is_asked_for():
    text = "a@example.org +44 20 7946 0958 93.184.216.34"
    assert mask.make(Mask(kind="mask", what=("ip",)))(text) == Kept(text.replace("93.184.216.34", "<IP>"), {"ip": 1})
    every = mask.make(Mask(kind="mask", what=("phone", "email", "ip")))(text)
    assert every == Kept("<EMAIL> <PHONE> <IP>", {"email": 1, "ip": 1, "phone": 1})
    with pytest.raises(ValidationError, match="'mail' cannot be masked; there are email, phone, ip, key"):
        Mask(kind="mask", what=("email", "mail"))
    with pytest.raises(ValidationError, match="at least 1"):
        Mask(kind="mask", what=())


HOSTILE = [
    "a", "@", "a@", "a@a.", "@a.b", "a.", "1", "1.", "1.1.1.1 ", "91.2.33.4 ", "+", "+1", "+1 ", "+1 2", "0", "01",
    "(", "(1", "1 ", "1-", "138-", "13812345678", "86", "86138", "010-", "2000:", "2000::", "2:", ":", "-----",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----A", "eyJ", "eyJaaaaaaaaaa.", ".eyJaaaaaaaaaa", "sk-",
    "sk-a", "-sk-", "xoxb-", "xoxb-a", "AKIA", "AKIAA", " hf_", "电话", "电话1", "tel ", "tel 1", "\\n", "\n", "ya29.",
    "SG.a", "0755)1234567", "+44 20 7946 0958 ", "1 2-", "a@b.c.", " aws_secret_access_key=", "version ", " ", "=",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_longer(step, piece):
    text = (piece * (250_000 // len(piece) + 1))[:250_000]
    started = time.process_time()
    step(text)
    assert time.process_time() - started < 1


def test_chinese_text_without_any_stays(step):
    text = "机器学习（2024年）：准确率为98.7%，样本数12345678，见第3.2.1.4节，编号2024010212345。" * 20
    assert step(text) == Kept(text)
