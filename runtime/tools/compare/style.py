"""The page's style sheet: one column on a phone, two on a desktop, light or dark as its reader
prefers.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --pad: 18px;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1a1d21; --soft: #5c6570; --grid: #e3e6ea;
  --line: #c9ced6; --good: #00714f; --good-paper: #e8f5ef; --warn: #8a4b00; --warn-paper: #fff4e0;
  --bad: #b3261e; --beaten: #8a94a20f;
  --c0: #4a5058; --c1: #0072b2; --c2: #3c9fd6; --c3: #d55e00; --c4: #b8558f; --c5: #00865f;
  --c6: #b07d00; --c7: #7a6a58;
  --s0: #fff0e0; --s1: #fdd3a8; --s2: #fbaa6b; --s3: #ee7a2f; --s4: #c84f0a; --s5: #8a2f00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #101316; --card: #191d22; --ink: #e8eaed; --soft: #a2abb6; --grid: #2a3037;
  --line: #3d454e; --good: #5fd3a5; --good-paper: #12291f; --warn: #f2b968; --warn-paper: #2c2213;
  --bad: #ff8a80; --beaten: #8a94a214;
  --c0: #b6bec8; --c1: #4aa8e0; --c2: #8fd0f7; --c3: #ff8c42; --c4: #e59ac6; --c5: #3cc79a;
  --c6: #eab83a; --c7: #c9b8a2;
  --s0: #33241a; --s1: #5a3517; --s2: #8a4a14; --s3: #c06417; --s4: #f08a35; --s5: #ffc48c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 20px 16px 48px; }
header { margin: 4px 0 18px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 4px; }
p { margin: 0 0 10px; } .soft, figcaption { color: var(--soft); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 12px;
  padding: 16px var(--pad); margin: 0 0 16px; min-width: 0; }
.chosen { background: var(--good-paper); border-color: var(--good); }
.chosen .what { color: var(--good); font-size: 1.35rem; font-weight: 650; line-height: 1.3; }
.chosen p { margin: 4px 0 0; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 32px; margin: 12px 0 0; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.note { background: var(--warn-paper); border-color: var(--warn); color: var(--warn); }
.note p:last-child { margin: 0; }
.charts { columns: 2 420px; column-gap: 16px; margin-bottom: 16px; }
.charts .card { break-inside: avoid; }
figure { margin: 0; } figcaption { margin: 0 0 8px; }
.scroll { overflow-x: auto; margin: 0 calc(-1 * var(--pad)); }
table { border-collapse: collapse; font-size: .8rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 5px; vertical-align: top; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); padding-left: var(--pad); }
th:last-child, td:last-child { padding-right: 12px; }
tr.best td { font-weight: 650; } td.wrong { color: var(--bad); white-space: normal;
  min-width: 18em; text-align: left; }
.pm { display: block; color: var(--soft); font-size: .7rem; font-weight: 400; }
dl.plain { display: grid; grid-template-columns: minmax(7em, auto) 1fr; gap: 4px 16px; margin: 0;
  font-size: .875rem; } dl.plain dt { color: var(--soft); }
dl.plain dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { :root { --pad: 14px; } main { padding: 12px 8px 32px; }
  header { margin: 4px 8px 14px; } dl.plain { display: block; } dl.plain dd { margin: 0 0 8px; } }
svg { display: block; width: 100%; height: auto; max-width: 620px; margin: 0 auto;
  font-family: inherit; }
svg text { fill: var(--ink); font-size: 13px; } svg .tick { fill: var(--soft); font-size: 12px; }
svg .label { paint-order: stroke; stroke: var(--card); stroke-width: 3px;
  stroke-linejoin: round; }
svg .name { fill: var(--soft); font-size: 12px; } svg .strong { font-weight: 650; }
.grid { stroke: var(--grid); } .base { stroke: var(--line); }
.leader { stroke: var(--line); stroke-width: 1; }
.front { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; }
.beaten { fill: var(--beaten); }
.mark { fill: var(--c); stroke: var(--card); stroke-width: 1.5; } .key { --c: var(--soft); }
.ring { fill: none; stroke: var(--good); stroke-width: 2.5; }
.whisker { stroke: var(--c); stroke-width: 2.5; }
.interval { stroke: var(--ink); stroke-width: 1.5; }
.ridge { fill: var(--c); fill-opacity: .3; stroke: var(--c); stroke-width: 1.5; }
.bar { fill: var(--c); } .mark-line { stroke: var(--ink); stroke-dasharray: 3 3; }
.line { fill: none; stroke: var(--c); stroke-width: 2.2; }
.d1 { stroke-dasharray: 7 4; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 9 3 2 3; }
.d4 { stroke-dasharray: 12 4; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3 { fill: var(--s3); }
.s4 { fill: var(--s4); } .s5 { fill: var(--s5); }
"""
