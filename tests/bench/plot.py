"""Horizontal bars as SVG, by hand: no plotting library for one kind of picture."""

from xml.sax.saxutils import escape

LABEL, BAR, ROW, HEAD, GAP = 220, 420, 16, 26, 14


def bars(path, title, panels):
    """panels: [(name, {label: value})]; shorter is better. Ours (label begins "attnd") is dark."""
    height = 40 + sum(HEAD + ROW * len(values) + GAP for _, values in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + BAR + 90}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>',
    ]
    y = 40
    for name, values in panels:
        parts.append(f'<text x="10" y="{y + 16}" font-weight="bold">{escape(name)}</text>')
        y += HEAD
        longest = max(values.values(), default=1) or 1
        for label, value in sorted(values.items(), key=lambda item: item[1]):
            width = max(1, value / longest * BAR)
            color = "#1b4f8f" if label.startswith("attnd") else "#b9c4d0"
            parts += [
                f'<text x="{LABEL - 6}" y="{y + 11}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{LABEL}" y="{y + 2}" width="{width:.1f}" height="{ROW - 4}" '
                f'fill="{color}"/>',
                f'<text x="{LABEL + width + 5:.1f}" y="{y + 11}">{value:.3g}</text>',
            ]
            y += ROW
        y += GAP
    with open(path, "w") as file:
        file.write("\n".join(parts + ["</svg>", ""]))
