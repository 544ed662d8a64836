"""The report's style sheet: one page, light and dark, from a phone to a wide screen."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f4; --panel: #ffffff; --ink: #16181d; --soft: #5b6270; --hair: #e4e5e8; --band:
  #f4f5f7; --track: #f0f1f3; --accent: #2563d9; --blank: #9aa3b2; --majority: #c2410c; --good: #12805c; --bad: #c02626; --heat: 37,
  99, 217; --s1: #2563d9; --s2: #0f9d76; --s3: #c97a00; --s4: #7c3aed; --s5: #d6336c; --s6: #0891b2; --s7: #8a5a2b;
  --s8: #4b5563; --warn: #fff6e0; --warn-edge: #e0b252; --damage: #fdecec; --damage-edge: #e3a0a0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #101216; --panel: #181b21; --ink: #eceef2; --soft: #9aa2b1; --hair: #2b303a; --band: #1e222a; --track: #232832;
    --accent: #6ea0ff; --blank: #727c8e; --majority: #fb923c; --good: #4ade9d; --bad: #ff8080; --heat: 110, 160, 255; --s1: #6ea0ff;
    --s2: #3ecf9f; --s3: #f0b03f; --s4: #b08cff; --s5: #ff7da6; --s6: #4fd0e6; --s7: #cfa57a;
    --s8: #a8b0be; --warn: #2e2612; --warn-edge: #7a6125; --damage: #321c1f; --damage-edge: #7c3d42; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 0; }
p { margin: 0; }
.lead, h2 + p, figcaption p, .unit { color: var(--soft); }
h2 + p { margin-bottom: 16px; max-width: 72ch; }
figcaption p, .unit { font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 26px 0 0; padding: 0; }
.tiles div { background: var(--panel); border: 1px solid var(--hair); border-radius: 12px; padding: 14px 16px; }
.tiles dt { font-size: 13px; color: var(--soft); }
.tiles dd { margin: 2px 0 0; font-size: 20px; font-weight: 650; line-height: 1.25; white-space: nowrap; }
.tiles .first dd { color: var(--accent); }
.tiles small { display: block; white-space: normal; font-size: 12.5px; font-weight: 400; color: var(--soft); margin-top: 2px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
.wide { grid-column: 1 / -1; }
.wide .plot { height: 260px; }
.panel { margin: 0; background: var(--panel); border: 1px solid var(--hair); border-radius: 12px; padding: 16px 18px 12px;
  min-width: 0; }
.bands { position: relative; height: 20px; margin: 10px 0 0 46px; font-size: 11px; color: var(--soft); }
.bands span { position: absolute; bottom: 2px; padding: 0 3px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  text-align: center; }
.plot { position: relative; height: 210px; margin-left: 46px; }
.plot svg { display: block; width: 100%; height: 100%; overflow: visible; }
.y span { position: absolute; right: 100%; margin-right: 8px; transform: translateY(50%); font-size: 11.5px; color: var(--soft);
  white-space: nowrap; font-variant-numeric: tabular-nums; }
.x { position: relative; height: 20px; margin-left: 46px; font-size: 11.5px; color: var(--soft); }
.x span { position: absolute; transform: translateX(-50%); top: 4px; white-space: nowrap; }
.unit { text-align: center; margin-left: 46px; font-size: 12px; }
.band { fill: none; }
.band.even { fill: var(--band); }
.grid { stroke: var(--hair); vector-effect: non-scaling-stroke; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke; }
.series-1 { stroke: var(--s1); --own: var(--s1); }
.series-2 { stroke: var(--s2); --own: var(--s2); }
.series-3 { stroke: var(--s3); --own: var(--s3); }
.series-4 { stroke: var(--s4); --own: var(--s4); }
.series-5 { stroke: var(--s5); --own: var(--s5); }
.series-6 { stroke: var(--s6); --own: var(--s6); }
.series-7 { stroke: var(--s7); --own: var(--s7); }
.series-8 { stroke: var(--s8); --own: var(--s8); }
.dashed { stroke-dasharray: 6 5; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 8px 0 0; padding: 0; font-size: 13px; color:
  var(--soft); }
.legend li::before { content: ""; display: inline-block; vertical-align: middle; margin-right: 6px; background: var(--own); }
.legend .dash::before { width: 20px; height: 3px; }
.legend .dashed::before { background: repeating-linear-gradient(90deg, var(--own) 0 6px, transparent 6px 10px); }
.legend .mark::before { width: 3px; height: 14px; }
.legend .block::before { width: 14px; height: 10px; border-radius: 3px; }
.of-model { --own: var(--accent); }
.of-blank { --own: var(--blank); }
.of-majority { --own: var(--majority); }
.bars { display: grid; grid-template-columns: 92px 1fr 50px; align-items: center; gap: 12px; padding: 4px 0; }
.bars svg { display: block; width: 100%; overflow: visible; }
.bars .name { font-size: 14px; text-align: right; }
.bars .value { font-weight: 650; font-variant-numeric: tabular-nums; }
.bars small { font-weight: 400; }
.track { fill: var(--track); }
.model { fill: var(--accent); }
.blank { fill: var(--blank); }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
.majority { stroke: var(--majority); stroke-width: 3; }
.scroll { overflow-x: auto; padding: 4px 0 0; }
table { border-collapse: separate; border-spacing: 2px; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); text-align: right; padding: 5px 10px; white-space: nowrap; vertical-align: bottom;
  font-size: 13px; }
td { text-align: right; padding: 5px 10px; border-radius: 5px; white-space: nowrap; }
tbody th { text-align: left; color: var(--ink); font-size: 14px; }
td.heat { background: rgba(var(--heat), var(--share)); }
tr.overall th, tr.overall td { font-weight: 650; }
td.gap, th.gap { padding-left: 22px; }
td.none { color: var(--soft); }
tbody th, td { vertical-align: baseline; }
.text, .example { text-align: left; unicode-bidi: isolate; }
td.example { color: var(--soft); font-size: 13px; white-space: normal; overflow-wrap: anywhere; min-width: 240px; }
.below { margin-top: 16px; }
.soft { color: var(--soft); }
.facts { display: grid; grid-template-columns: 110px 1fr; gap: 6px 16px; margin: 0; font-size: 14.5px; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 12px; border-top: 1px solid var(--hair); padding-top: 10px; font-size: 14.5px; }
summary { cursor: pointer; color: var(--accent); }
pre { margin: 10px 0 0; overflow-x: auto; max-height: 480px; font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.notice { border: 1px solid; border-radius: 12px; padding: 12px 16px; margin-top: 18px; font-size: 14.5px; }
.notice h2 { font-size: 15px; margin: 0 0 4px; }
.notice ul { margin: 0; padding-left: 20px; }
.notice li { overflow-wrap: anywhere; }
.warning { background: var(--warn); border-color: var(--warn-edge); }
.problem { background: var(--damage); border-color: var(--damage-edge); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 14px; }
.card { background: var(--panel); border: 1px solid var(--hair); border-radius: 12px; overflow: hidden; display: flex;
  flex-direction: column; }
.media { display: flex; flex-wrap: wrap; gap: 6px; justify-content: center; align-items: center; background: var(--track); padding:
  12px; min-height: 160px; }
.media img { display: block; border-radius: 4px; max-width: 100%; object-fit: contain; image-rendering: auto; }
.n1 img { height: 150px; width: auto; max-width: 100%; }
.n2 img, .n3 img, .n4 img { height: 92px; max-width: 46%; }
.many img { width: 22%; }
.told { font-size: 13.5px; color: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere; text-align: left; align-self:
  flex-start; }
.note { font-size: 12.5px; color: var(--soft); overflow-wrap: anywhere; flex-basis: 100%; text-align: center; }
.question, .answer, .truth, .name, .legend li, h1, .lead { unicode-bidi: isolate; }
.said { padding: 12px 14px 14px; display: flex; flex-direction: column; gap: 4px; flex: 1; }
.said .family { font-size: 12px; color: var(--soft); }
.said .question { font-weight: 550; overflow-wrap: anywhere; white-space: pre-wrap; }
.said .answer { margin-top: auto; padding-top: 6px; overflow-wrap: anywhere; }
.right { color: var(--good); }
.wrong { color: var(--bad); }
.said .truth { color: var(--soft); font-size: 14px; }
@media (max-width: 560px) {
  main { padding: 24px 14px 48px; }
  h1 { font-size: 24px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles dd { font-size: 20px; }
  .panel { padding: 14px 12px 10px; }
  .bars { grid-template-columns: 74px 1fr 44px; gap: 8px; }
  .bars .name { font-size: 13px; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 8px; }
  .cards { grid-template-columns: 1fr 1fr; }
  .n1 img { height: 110px; }
  .media { min-height: 120px; padding: 8px; }
  .said { padding: 10px; font-size: 14px; }
}
"""
