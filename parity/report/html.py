"""Pages of HTML that need no other file: styles inline, pictures as data URIs."""

from __future__ import annotations

import base64
from html import escape

CSS = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #dfe3e8; --text: #1b1f24; --soft: #5c6670;
  --bar: #4c7fd0; --good: #1a7f4b; --good-back: #dcf3e6; --bad: #b3261e; --bad-back: #fbe1df; }
@media (prefers-color-scheme: dark) { :root {
  --page: #101317; --card: #181c22; --line: #2b323b; --text: #e7eaee; --soft: #98a2ad;
  --bar: #6c9bea; --good: #6fd39c; --good-back: #16321f; --bad: #ff9a91; --bad-back: #40191a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 2.5rem 1.5rem 4rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.5rem 0 .8rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.2rem; }
.pill { display: inline-block; border-radius: 1rem; padding: .25rem .9rem; font-weight: 600;
  background: var(--line); }
.pill.good { color: var(--good); background: var(--good-back); }
.pill.bad { color: var(--bad); background: var(--bad-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: .8rem;
  margin: 1.5rem 0 0; }
.tiles b { display: block; font-size: 1.6rem; font-weight: 650;
  font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
tbody + tbody tr:first-child td { border-top: 1px solid var(--line); }
.scroll { overflow-x: auto; }
.bar { display: inline-block; width: 6rem; height: .5rem; margin-right: .7rem; border-radius: 3px;
  background: linear-gradient(to right, var(--bar) var(--share), var(--line) var(--share)); }
.value { display: inline-block; min-width: 3.2rem; }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .5em;
  border-radius: 3px; vertical-align: -.08em; box-shadow: inset 0 0 0 1px #8886; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; position: sticky; top: 0; z-index: 1;
  margin-bottom: .8rem; padding: .6rem 1.2rem; }
.sample { margin: 0 0 .8rem; } .sample header { display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  justify-content: space-between; margin-bottom: .6rem; }
.sample h3 { margin: 0; font: 600 .95rem ui-monospace, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.pictures { display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
figure { margin: 0; } figure img { display: block; width: 100%; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .25rem; }
@media (max-width: 700px) { .bar { display: none; } }
"""


def document(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: Plain text.
        body: HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def data_uri(data: bytes, kind: str) -> str:
    """A picture's bytes as a link; `kind` such as `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def figure(uri: str, caption: str, description: str) -> str:
    return (
        f'<figure><img src="{uri}" alt="{escape(description)}" loading="lazy">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def swatch(colour: tuple[int, int, int]) -> str:
    return f'<span class="swatch" style="background:rgb{colour}"></span>'


def tile(value: str, caption: str) -> str:
    return (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(caption)}</span></div>'
    )
