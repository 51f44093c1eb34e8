"""How the report looks: one style sheet, and the tint of a height loss."""

import math

FULL_TINT_LOSS = 0.6  # a loss from here on is as red as it gets

STYLE = """
:root { --ink: #0f172a; --soft: #475569; --line: #e2e8f0; --accent: #0f766e; --paper: #fff;
  --ground: #f8fafc; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, footer { max-width: 1280px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 0 0 8px; }
h3 { font-size: 16px; margin: 0 0 10px; display: flex; gap: 10px; align-items: center; flex-wrap: wrap; }
h3 small { color: var(--soft); font-weight: 400; }
.lead { color: var(--soft); margin: 4px 0 18px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 18px;
  min-width: 130px; }
.tile .value { font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile .name { color: var(--soft); font-size: 13px; }
.notice { background: #fffbeb; border-left: 4px solid #f59e0b; padding: 10px 14px; border-radius: 0 6px 6px 0;
  margin: 18px 0 0; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin: 20px 0; }
.note { color: var(--soft); font-size: 13px; margin: 6px 0; }
.scroll { overflow-x: auto; }
.tall { max-height: 420px; overflow-y: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall thead th { position: sticky; top: 0; background: #f1f5f9; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll table { min-width: 60%; }
.tall table, .card table { width: 100%; }
.tall th, .tall td { padding: 5px 9px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { font-size: 13px; color: var(--soft); font-weight: 600; }
td.figure, th.figure { text-align: right; }
.interval { font-size: 11px; color: var(--soft); line-height: 1.2; }
caption { text-align: left; font-size: 13px; color: var(--soft); padding-bottom: 6px; }
.side figure { margin-bottom: 18px; } .side .scroll + figure { margin-top: 14px; }
figure img { max-width: min(100%, 440px); }
.confusion th { text-align: center; } .confusion th:first-child { text-align: right; }
.confusion td { text-align: center; min-width: 64px; border: 2px solid var(--paper); }
.side { display: flex; flex-wrap: wrap; gap: 20px 72px; align-items: flex-start; margin-top: 14px; }
figure { margin: 0; min-width: 0; }
.scroll + figure { margin-top: 14px; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { font-size: 12px; color: var(--soft); margin-top: 4px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 580px), 1fr)); gap: 18px;
  margin-top: 20px; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 16px; scroll-margin-top: 12px; }
.card:target { border-color: var(--accent); box-shadow: 0 0 0 3px rgba(15, 118, 110, 0.15); }
.card table { font-size: 13px; margin-top: 10px; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 10px 14px; align-items: center; }
.pictures figure:first-child { grid-column: 1 / -1; justify-self: center; }
.badge { font-size: 12px; font-weight: 600; padding: 1px 9px; border-radius: 99px; }
.grade0 { background: #dbeafe; color: #1e40af; } .grade1 { background: #fef9c3; color: #854d0e; }
.grade2 { background: #ffedd5; color: #9a3412; } .grade3 { background: #fee2e2; color: #991b1b; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
footer { color: var(--soft); font-size: 13px; padding-bottom: 40px; }
@media (max-width: 640px) { main, header, footer { padding: 0 12px; } section { padding: 14px; } }
@media print { .tall { max-height: none; } .card { break-inside: avoid; } }
"""


def loss_tint(loss: float) -> str:
    """Return the CSS of a table cell for a relative height loss: redder with loss, bluer with growth."""
    if not math.isfinite(loss):
        return ""
    strength = 0.55 * min(abs(loss) / FULL_TINT_LOSS, 1.0)
    return f"background:rgba({'220,38,38' if loss > 0 else '37,99,235'},{strength:.2f})"
