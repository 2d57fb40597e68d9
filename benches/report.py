"""Rounds in, a table out: the median of each figure with its spread, and the median of the ratios within the rounds. The
machine's speed drifts from round to round; a ratio within one does not.
"""

from statistics import median

UNITS = {
    "cpu_us": "CPU µs",
    "cpu_s": "CPU s/GB",
    "per_second": "per second",
    "gb_per_second": "GB/s",
    "p50_added_us": "p50 added µs",
    "p99_added_us": "p99 added µs",
    "per_connection_kb": "KB each",
    "idle_mb": "MB idle, each half",
}


def summary(rounds, works):
    """`rounds`: a list of {work: {peer: {figure: value}}}. Gives {work: {peer: {figure: {median, least, most}, ratios}}},
    where `ratios` is Sidegate's first figures over the peer's."""
    result = {}
    for work in works:
        seen = [each[work.name] for each in rounds if work.name in each]
        peers = list(seen[0]) if seen else []
        result[work.name] = {peer: _of_peer([each for each in seen if peer in each], peer) for peer in peers}
    return result


def _of_peer(seen, peer):
    figures = {}
    for name in seen[0][peer]:
        values = [each[peer][name] for each in seen]
        figures[name] = {"median": median(values), "least": min(values), "most": max(values)}
        ratios = [each["sidegate"][name] / each[peer][name] for each in seen if "sidegate" in each and each[peer][name] > 0]
        if ratios:
            figures[name]["sidegate_to_this"] = median(ratios)
    return figures


def table(result, works):
    """Markdown."""
    lines = []
    for work in works:
        peers = result.get(work.name)
        if not peers:
            continue
        names = list(next(iter(peers.values())))
        first = names[0]
        lines += [f"### {work.title}", ""]
        lines.append("| | " + " | ".join(UNITS[name] for name in names) + f" | Sidegate's {UNITS[first]} to this |")
        lines.append("|---|" + "--:|" * (len(names) + 1))
        for peer, figures in peers.items():
            cells = [_cell(figures[name]) for name in names]
            ratio = figures[first].get("sidegate_to_this")
            lines.append(f"| {peer} | " + " | ".join(cells) + f" | {'' if ratio is None or peer == 'sidegate' else f'{ratio:.2f}'} |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure):
    return f"{_number(figure['median'])} ({_number(figure['least'])}–{_number(figure['most'])})"


def _number(value):
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
