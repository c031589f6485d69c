"""Questions to an open page, answered by JavaScript inside it: contrast, names, headers, overflow."""

from __future__ import annotations

from typing import Any

from tests.support.browser import Page

_CONTRAST = """(() => {
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = (css) => {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = '#000'; probe.fillStyle = css; probe.fillRect(0, 0, 1, 1);
    const d = probe.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat([1]);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] > 0) { layers.push(c); if (c[3] >= 1) break; }
    }
    return layers.reduceRight((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]);
  };
  const bad = []; let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.data.trim() || ['SCRIPT', 'STYLE', 'TITLE'].includes(e.tagName.toUpperCase())) continue;
    if (!e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    const style = getComputedStyle(e), under = behind(e);
    const ink = over(parse(e instanceof SVGElement ? style.fill : style.color), under);
    const a = light(ink), b = light(under), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    checked += 1;
    const what = `<${e.tagName} class="${e.getAttribute('class')}"> ${node.data.trim().slice(0, 40)}`;
    if (ratio < wanted) bad.push(`${ratio.toFixed(2)} < ${wanted}: ${what}`);
  }
  return {checked, bad};
})()"""

_STRUCTURE = """(() => {
  const text = (e) => `${e.tagName}.${e.getAttribute('class')}: ${e.textContent.trim().slice(0, 50)}`;
  const all = (css) => Array.from(document.querySelectorAll(css));
  const problems = [];
  if (all('h1').length !== 1) problems.push(`expected one h1, found ${all('h1').length}`);
  let level = 0;
  all('h1,h2,h3,h4').forEach(h => {
    const n = +h.tagName[1];
    if (n > level + 1) problems.push('skipped level at ' + text(h));
    level = n;
  });
  all('table').forEach(t => {
    if (!t.querySelector('thead th[scope=col]')) problems.push('no column header: ' + text(t));
    if (!t.querySelector('tbody th[scope=row]')) problems.push('no row header: ' + text(t));
    if (!t.caption) problems.push('no caption: ' + text(t));
    t.querySelectorAll('th').forEach(h => { if (!h.scope) problems.push('th without scope: ' + text(h)); });
  });
  all('img').forEach(i => { if (!i.hasAttribute('alt')) problems.push('img without alt: ' + i.src.slice(0, 40)); });
  all('svg').forEach(s => {
    // A chart whose parts can be focused is a group, and then each of them says what it is.
    const parts = [...s.querySelectorAll('[tabindex="0"]')].every(e => (e.getAttribute('aria-label') || '').length > 3);
    const role = s.getAttribute('role');
    const named = (role === 'img' || (role === 'group' && parts)) && (s.getAttribute('aria-label') || '').length > 10;
    if (!named && s.getAttribute('aria-hidden') !== 'true') problems.push('chart without text: ' + text(s));
  });
  all('button, a, summary, [tabindex="0"]').forEach(e => {
    if (!(e.getAttribute('aria-label') || e.textContent).trim()) problems.push('no name: ' + e.outerHTML.slice(0, 80));
  });
  all('.scroll').forEach(e => {
    const reachable = e.tabIndex === 0 && e.getAttribute('role') === 'region';
    if (!reachable) problems.push('scrolls without a keyboard: ' + text(e));
  });
  const ids = all('[id]').map(e => e.id), twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  if (twice.length) problems.push('ids twice: ' + twice);
  all('a[href^="#"]').forEach(a => {
    if (!document.getElementById(a.hash.slice(1))) problems.push('dead link ' + a.hash);
  });
  if (!document.documentElement.lang) problems.push('no language');
  return problems;
})()"""

_BROKEN_IMAGES = "Array.from(document.images).filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt)"

_TOO_WIDE = """(() => {
  const width = document.documentElement.clientWidth;
  const inside = (e) => e.closest('.scroll, .page-nav, svg, pre, .visually-hidden');
  return Array.from(document.querySelectorAll('body *'))
    .filter(e => !inside(e) && e.getBoundingClientRect().right > width + 1)
    .map(e => `${e.tagName}.${e.getAttribute('class')} to ${Math.round(e.getBoundingClientRect().right)}`).slice(0, 10);
})()"""


def open_all_details(page: Page) -> None:
    """Unfold everything, so that hidden parts are checked as well."""
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")


def contrast(page: Page) -> dict[str, Any]:
    """Return how many visible texts were measured, and those below WCAG AA (4.5, or 3 where large)."""
    found = page.evaluate(_CONTRAST)
    assert isinstance(found, dict)
    return found


def structure_problems(page: Page) -> list[str]:
    """Return what a screen reader or a keyboard would stumble over."""
    return list(page.evaluate(_STRUCTURE))


def broken_images(page: Page) -> list[str]:
    """Return the alternative texts of pictures that did not load."""
    return list(page.evaluate(_BROKEN_IMAGES))


def too_wide(page: Page) -> list[str]:
    """Return what sticks out of the page on the right, and whether the page itself scrolls sideways."""
    found = list(page.evaluate(_TOO_WIDE))
    scroll, width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    return [*found, f"page scrolls: {scroll} > {width}"] if scroll > width else found


def focus_order(page: Page, presses: int) -> list[str]:
    """Press Tab and return what had the focus each time; `!` marks one whose focus cannot be seen."""
    seen = []
    for _ in range(presses):
        page.press("Tab")
        seen.append(
            page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " const shown = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;"
                " return (shown ? '' : '!') + (e.getAttribute('aria-label') || e.textContent).trim().slice(0, 40); })()"
            )
        )
    return seen
