"""Secrets of many kinds, made up of parts, so that no scanner takes this file for a leak."""

from __future__ import annotations

_MIXED = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3kL5mN7pQ9rS1tU3v"
_HEX = "0a1b2c3d4e5f6071829304a5b6c7d8e9"


def _mixed(length: int) -> str:
    return (_MIXED * 3)[:length]


_KEY_LINES = f"{_mixed(60)}\n{_mixed(40)}=="
SHAPED: dict[str, str] = {
    "Hugging Face user": "hf_" + _mixed(34),
    "Hugging Face organisation": "api_org_" + _mixed(34),
    "GitHub personal": "ghp_" + _mixed(36),
    "GitHub OAuth": "gho_" + _mixed(36),
    "GitHub server": "ghs_" + _mixed(36),
    "GitHub fine-grained": "github_pat_" + _mixed(22) + "_" + _mixed(59),
    "GitLab personal": "glpat-" + _mixed(20),
    "GitLab runner": "glrt-" + _mixed(20),
    "Slack bot": "xoxb-" + "123456789012-" + _mixed(24),
    "Slack user": "xoxp-" + "123456789012-" + _mixed(24),
    "OpenAI": "sk-" + _mixed(48),
    "OpenAI project": "sk-proj-" + _mixed(40) + "_" + _mixed(10),
    "Anthropic": "sk-ant-api03-" + _mixed(60),
    "Groq": "gsk_" + _mixed(52),
    "Stripe": "sk_live_" + _mixed(24),
    "Amazon": "AKIA" + "ABCDEFGH12345678",
    "Amazon session": "ASIA" + "ABCDEFGH12345678",
    "Google": "AIza" + _mixed(35),
    "Google OAuth": "ya29." + _mixed(60),
    "Azure application": "a1b8Q~" + _mixed(34),
    "Azure storage": "AccountKey=" + _mixed(60) + "==",
    "SendGrid": "SG." + _mixed(22) + "." + _mixed(43),
    "npm": "npm_" + _mixed(36),
    "PyPI": "pypi-" + _mixed(80),
    "Docker": "dckr_pat_" + _mixed(27),
    "Databricks": "dapi" + _HEX,
    "Telegram": "123456789:AA" + _mixed(33),
    "JSON web token": "eyJ" + _mixed(20) + ".eyJ" + _mixed(30) + "." + _mixed(43),
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{_KEY_LINES}\n-----END RSA PRIVATE KEY-----",
    "OpenSSH key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{_KEY_LINES}\n-----END OPENSSH PRIVATE KEY-----",
    "token in an address": f"https://{_mixed(30)}@host.example/repo",
    "password in an address": "https://someone:" + "pass" + "W0rd!@host.example/repo",
    "assignment": "password=" + _mixed(16),
    "header": "Authorization: Bearer " + _mixed(40),
    "query": "https://host.example/x?access_token=" + _mixed(50),
}
"""Kind -> what someone might type."""

CORE: dict[str, str] = {
    kind: max(text.replace("@host.example/repo", "").replace("://", " ").replace("=", " ").split(), key=len)
    for kind, text in SHAPED.items()
}
"""Kind -> the longest unbroken part, by which a leak is found however the rest was escaped."""

HELD: dict[str, str] = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPx" + "RfiCYzz",
    "GITHUB_PAT": "plain-words-as-a-token",
    "DB_PASS": "correct horse battery",
    "my_service_password": 'tr0ub4dor&3\'<"quoted">',
    "lower_case_token": "qwzxplmk",
    "WANDB_API_KEY": _HEX + "01234567",
    "PGPASSWORD": "日本語のパスワード",
}
"""Name of an environment variable -> its value, which has no shape of its own."""
