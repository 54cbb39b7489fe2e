"""Opens pages in Chromium and tells what is wrong with them.

Standard input: a JSON list of {"name", "path", "whole", "kept"}. Arguments: where screenshots go, and
where the pictures are that pages which are always the same have to look like; these are made anew where
TWTRACE_REFERENCES is `update`. Where TWTRACE_PICTURE names a file, the beginning of the lab's page goes there.
Standard output: a JSON object of faults by page, and how many pages, links and figures were looked at.
"""

import json
import os
import pathlib
import sys
import tempfile

from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageChops
from playwright.sync_api import sync_playwright

BROWSER = "/usr/bin/chromium-headless-shell"
WIDTHS = (380, 800, 1280)
SCHEMES = ("light", "dark")
# Pages of which not all of that is looked at, as they are no different: how they are then.
FEW = ((380, "dark"), (1280, "light"))
# What axe-core has to be content with: WCAG 2.1 AA, contrast among it.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}

# A screenshot is no higher: of what is much higher a browser may fail to make one.
HIGHEST = 4000
# Of a page its beginning is compared, made smaller by this, in squares of so many pixels of the small
# picture. What differs is the mean of a square, of 255; the few greys kept make 8.
BEGINNING, SMALLER, SQUARE, TOLERANCE = 1600, 4, 10, 12

# The page that a picture is taken of, how wide it is then, how high the picture, and its colours.
PICTURE, PICTURE_WIDTH, PICTURE_HEIGHT, COLOURS = "story", 800, 1000, 64

# The one font that pages are shown in, whatever else this machine has.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts/truetype/dejavu</dir><cachedir>{}</cachedir>
<match><edit name="family" mode="assign" binding="strong"><string>DejaVu Sans</string></edit></match>
</fontconfig>"""

ANCHORS = """() => {
  const faults = [], ids = new Set();
  for (const element of document.querySelectorAll('[id]')) {
    if (ids.has(element.id)) faults.push('twice the id ' + element.id);
    ids.add(element.id);
  }
  const links = [...document.querySelectorAll('a')];
  for (const link of links) {
    const href = link.getAttribute('href') || '';
    if (!href.startsWith('#')) faults.push('a link elsewhere: ' + href);
    else if (!ids.has(href.slice(1))) faults.push('a link to nothing: ' + href);
  }
  for (const [attribute, element] of ['aria-labelledby', 'aria-describedby'].flatMap(
      name => [...document.querySelectorAll('[' + name + ']')].map(element => [name, element])))
    if (!ids.has(element.getAttribute(attribute))) faults.push('named by nothing: ' + attribute);
  for (const table of document.querySelectorAll('table'))
    if (!table.caption) faults.push('a table without a caption');
  if (document.querySelector('script, iframe, object, embed, img, link, base'))
    faults.push('an element that has no business here');
  return [links.length, faults];
}"""


def figures(page):
    """Pictures of the accessibility tree, and those among them without a name."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("image", "img", "graphics-document", "SvgRoot")
    pictures = [
        node for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in roles
    ]
    unnamed = [node for node in pictures if not node.get("name", {}).get("value", "").strip()]
    return len(pictures), len(unnamed)


def unlike(shot, reference):
    """What a screenshot has that its reference has not, or nothing."""
    seen = Image.open(shot).convert("L")
    width, height = seen.width, min(seen.height, BEGINNING)
    small = (width // SMALLER, height // SMALLER)
    seen = seen.crop((0, 0, width, height)).resize(small, Image.Resampling.BOX)
    if os.environ.get("TWTRACE_REFERENCES") == "update":
        seen.quantize(32).save(reference, optimize=True)
        return None
    known = Image.open(reference).convert("L")
    if known.size != seen.size:
        return f"it is {seen.size} and was {known.size} pixels large"
    squares = (small[0] // SQUARE, small[1] // SQUARE)
    difference = ImageChops.difference(seen, known).resize(squares, Image.Resampling.BOX)
    most = max(difference.getdata())
    if most > TOLERANCE:
        at = list(difference.getdata()).index(most)
        across, down = at % squares[0], at // squares[0]
        return f"it differs by {most} about {across * SQUARE * SMALLER}, {down * SQUARE * SMALLER}"
    return None


def take(shot, picture):
    """The beginning of a screenshot, for a document."""
    beginning = Image.open(shot).convert("RGB").crop((0, 0, PICTURE_WIDTH, PICTURE_HEIGHT))
    # Thin lines count as much as large areas.
    few = beginning.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    few.save(picture, format="PNG", optimize=True)


def look(browser, asked, shots, references):
    path, name, whole = asked["path"], asked["name"], asked["whole"]
    faults = []
    counts = {"links": 0, "figures": 0}
    for width in WIDTHS:
        for scheme in SCHEMES:
            if not whole and (width, scheme) not in FEW:
                continue
            where = f"{width} {scheme}: "
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.on("dialog", lambda dialog: (faults.append(where + "a dialog"), dialog.dismiss()))
            page.on("console", lambda said: faults.append(f"{where}console: {said.text}"))
            page.on("pageerror", lambda error: faults.append(f"{where}error: {error}"))
            uri = pathlib.Path(path).as_uri()
            page.on("request", lambda asked: asked.url.split("#")[0] == uri or faults.append(
                f"{where}a request: {asked.url}"))
            page.goto(uri)
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                faults.append(f"{where}{wide} pixels wide")
            ink = page.evaluate("getComputedStyle(document.body).backgroundColor")
            if ink not in ("rgb(255, 255, 255)", "rgb(15, 20, 26)"):
                faults.append(f"{where}its style sheet is not at work: {ink}")
            shot = shots / f"{name}-{width}-{scheme}.png"
            high = min(page.evaluate("document.documentElement.scrollHeight"), HIGHEST)
            clip = {"x": 0, "y": 0, "width": width, "height": high}
            page.screenshot(path=str(shot), full_page=True, clip=clip)
            picture = os.environ.get("TWTRACE_PICTURE")
            if picture and (name, width, scheme) == (PICTURE, PICTURE_WIDTH, "light"):
                take(shot, picture)
            fault = unlike(shot, references / shot.name) if asked["kept"] else None
            if fault:
                faults.append(f"{where}not as it was: {fault}")
            # All that is folded is looked at as well.
            page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
            counts["links"], wrong = page.evaluate(ANCHORS)
            faults += [where + fault for fault in wrong]
            counts["figures"], unnamed = figures(page)
            if unnamed:
                faults.append(f"{where}{unnamed} figures without a name")
            if whole and width == 380:
                found = Axe().run(page, options=RULES).response["violations"]
                faults += [
                    f"{where}{rule['id']}: {rule['help']}: {rule['nodes'][0]['html'][:200]}"
                    for rule in found
                ]
            context.close()
    return faults, counts


def main():
    pages = json.load(sys.stdin)
    shots, references = map(pathlib.Path, sys.argv[1:])
    shots.mkdir(parents=True, exist_ok=True)
    answer = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as own:
        fonts = pathlib.Path(own) / "fonts.conf"
        fonts.write_text(FONTS.format(own))
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            env={**os.environ, "FONTCONFIG_FILE": str(fonts)},
        )
        for page in pages:
            faults, counts = look(browser, page, shots, references)
            answer[page["name"]] = {"faults": faults, **counts}
        browser.close()
    json.dump(answer, sys.stdout)


main()
