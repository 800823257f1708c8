"""An HTML page must be well formed, and load nothing that it does not carry within itself."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link"}


class Checker(HTMLParser):
    """Keeps the tags that are open, and everything that would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(page):
    """Assert it, and return what was found."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(source.startswith("data:image/png;base64,") for source in checker.loaded)
    assert "script" not in checker.tags
    assert "url(" not in page
    assert "@import" not in page
    return checker
