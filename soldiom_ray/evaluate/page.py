"""A report as one HTML page that loads nothing: the Markdown page with its pictures inside."""

import base64
import html
from collections.abc import Mapping

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin-top: 1.6rem; } h4 { font-size: .95rem; margin: 1.1rem 0 .3rem; color: #444; }
blockquote { margin: 1rem 0; padding: .7rem 1rem; border-left: 5px solid #999; background: #f5f5f5; }
.passed blockquote:first-of-type { border-color: #3d8b4f; background: #eef7f0; }
.failed blockquote:first-of-type { border-color: #b5493a; background: #fbf0ee; }
blockquote p { margin: 0; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .86rem; display: block; overflow-x: auto; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #bbb; } td { font-variant-numeric: tabular-nums; }
pre { background: #f6f6f4; padding: .6rem .8rem; margin: .3rem 0; font-size: .82rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { font-size: .9em; } img { max-width: 100%; height: auto; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(title: str, markdown: str, pictures: Mapping[str, bytes], *, passed: bool) -> str:
    """The page. HTML within the Markdown is shown as text, and pictures that are not among `pictures` are left out."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for block in tokens:
        for token in block.children or ():
            if token.type == "image":
                name = str(token.attrs.get("src", "")).removeprefix("pictures/")
                data = pictures.get(name)
                token.attrs["src"] = f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else "data:,"
    body = parser.renderer.render(tokens, parser.options, {})
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>{STYLE}</style></head>\n<body class="{"passed" if passed else "failed"}">\n{body}</body></html>\n'
    )
