"""How the page looks: one style sheet, for light and dark, wide and narrow."""

from everlearn.metrics.colours import LEVELS, variables

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;background:var(--paper);color:var(--ink)}
body{margin:0 auto;max-width:1180px;padding:clamp(20px,4vw,56px) clamp(16px,4vw,48px) 80px;
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 font-variant-numeric:tabular-nums}
h1{font-size:1.75rem;line-height:1.2;font-weight:650;letter-spacing:-.015em;margin:0 0 .5rem;
 overflow-wrap:anywhere}
h2{font-size:1.15rem;font-weight:650;letter-spacing:-.005em;margin:3.25rem 0 .35rem;padding-top:1.1rem;
 border-top:1px solid var(--line)}
h3{font-size:.95rem;font-weight:600;margin:0 0 .6rem;overflow-wrap:anywhere}
figure{margin:0}
p{margin:.35rem 0;max-width:68ch}
a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:.2em;text-decoration-thickness:1px}
a:hover{text-decoration-color:currentColor}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.lead{font-size:1.15rem;line-height:1.5;max-width:62ch;overflow-wrap:anywhere}
.note,.key,figcaption,caption{color:var(--soft);font-size:.85rem}
.panels{display:grid;gap:2rem 3rem;margin-top:1.4rem;
 grid-template-columns:repeat(auto-fit,minmax(min(100%,var(--panel,340px)),1fr))}
.panels>*{min-width:0}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible{outline:2px solid var(--kept);outline-offset:3px}
table{border-collapse:collapse;font-size:.9rem}
caption{text-align:left;caption-side:bottom;padding-top:.6rem}
th{font-weight:500;text-align:left}
td{text-align:right;white-space:nowrap}
.glance th,.glance td{padding:.42rem 0 .42rem 1.75rem;border-bottom:1px solid var(--line)}
.glance tr>:first-child{padding-left:0;position:sticky;left:0;background:var(--paper);min-width:8em}
.glance thead th{text-align:right;font-weight:650;max-width:14em;overflow-wrap:anywhere}
.glance{margin-top:1.4rem}
.glance .head td{font-size:1.15rem;font-weight:650}
.best{font-weight:650}
.soft{color:var(--soft)}
.heat{border-collapse:separate;border-spacing:2px;font-size:.8rem}
.heat thead th{text-align:center;color:var(--soft);font-weight:400;padding:0 2px 3px;max-width:6.5em;
 overflow:hidden;
 text-overflow:ellipsis;white-space:nowrap}
.heat tbody th{color:var(--soft);font-weight:400;padding:0 .7em 0 0;max-width:12em;overflow:hidden;
 text-overflow:ellipsis;
 white-space:nowrap;position:sticky;left:0;background:var(--paper);z-index:1}
.heat td{height:2.15em;min-width:2.5em;padding:0 .3em;text-align:center;border-radius:3px}
.heat.wide td{min-width:5em;height:2.5em}
.heat td.none{color:var(--soft);opacity:.6}
.heat td.own{box-shadow:inset 0 0 0 1.5px var(--ink)}
.heat td.mean,.heat th.mean{padding:0 0 0 .8em;min-width:0;text-align:right;font-weight:600;color:var(--ink)}
.strip{display:inline-flex;margin:0 .7em}
.sample{width:26px;height:12px;margin-right:.5em;vertical-align:-1px}
.sample path{fill:none;stroke-width:2.5}
.strip i{width:9px;height:11px}
.plot{display:grid;grid-template-columns:4em minmax(0,1fr) minmax(0,auto);grid-template-rows:250px auto;
 font-size:.8rem;color:var(--soft)}
.plot svg{grid-column:2;grid-row:1;width:100%;height:100%;display:block;overflow:visible}
.plot path{fill:none;vector-effect:non-scaling-stroke}
.grid{stroke:var(--line);stroke-width:1}
.begin{stroke:var(--soft);stroke-width:1;stroke-dasharray:1 4;opacity:.6}
.event{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3;opacity:.5}
.line{stroke-linejoin:round}
.dots{stroke-linecap:round}
.ys,.ends,.xs{position:relative}
.ys{grid-column:1;grid-row:1}
.ys span{position:absolute;right:.8em;transform:translateY(-50%);white-space:nowrap}
.xs{grid-column:2;grid-row:2;height:1.9em}
.xs span{position:absolute;top:.5em;transform:translateX(-50%);white-space:nowrap;overflow:hidden;
 text-overflow:ellipsis;
 padding:0 .25em}
.ends{grid-column:3;grid-row:1}
.ends:not(:empty){width:10.5em}
.ends span{position:absolute;left:.9em;right:0;transform:translateY(-50%);white-space:nowrap;overflow:hidden;
 text-overflow:ellipsis;color:var(--ink);line-height:1.2}
.over{grid-column:1;grid-row:2;padding:.5em .8em 0 0;text-align:right;overflow:hidden;text-overflow:ellipsis}
.timeline .ends:not(:empty){width:14em}
:not(.panels)>.timeline+.timeline{margin-top:2rem}
.timeline .plot{padding-right:1.2em}
.timeline .key{max-width:none}
.events{grid-column:2;grid-row:1;position:relative;pointer-events:none}
.events span{position:absolute;bottom:100%;padding:0 .3em .15em;white-space:nowrap;line-height:1.2}
.plot:has(.events){margin-top:2rem}
.happened th,.happened td{padding:.12rem 1.4em .12rem 0;text-align:left}
.instead{display:none}
.ends i{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.45em}
.chip{width:12px;height:12px;margin-right:.45em;vertical-align:-1px}
.panels>:only-child:has(.plot,.bars){max-width:820px}
.glance tbody+tbody tr:first-child th,.glance tbody+tbody tr:first-child td{border-top:1px solid var(--soft)}
.key{display:flex;flex-wrap:wrap;gap:.2em 1.4em;align-items:center;margin:.5rem 0 .7rem}
.bars{width:100%}
.bars th,.bars td{padding:.16rem 0 .16rem .9rem}
.bars th:first-child{padding-left:0}
.bars th{font-weight:400;max-width:11em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bars thead th{color:var(--soft);font-size:.8rem}
.bars thead th.number,.bars td.number{text-align:right}
.bars .track{width:60%}
.bars.two .track{width:32%}
.bar{display:block;width:100%;height:11px;background:var(--wash);border-radius:2px}
.kept{fill:var(--kept)}
.lost{fill:var(--lost)}
.gained{fill:var(--gained)}
details{margin-top:.6rem}
summary{cursor:pointer;color:var(--soft);font-size:.85rem}
.facts{display:grid;grid-template-columns:minmax(8em,auto) 1fr;gap:.3rem 2rem;font-size:.9rem;
 margin:1.2rem 0 0}
.facts dt{color:var(--soft);overflow-wrap:anywhere}
.facts dd{margin:0;overflow-wrap:anywhere}
.readings{margin-top:1.2rem}
.reading{padding:.8rem 0;border-bottom:1px solid var(--line);display:grid;gap:.15rem 2.5rem;
 grid-template-columns:minmax(0,1fr) auto}
.reading:target{background:var(--wash)}
.reading h3{margin:0}
.reading p{font-size:.9rem}
.reading .equation{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.82rem;
 overflow-wrap:anywhere}
.reading table{grid-row:1/span 4;grid-column:2;align-self:start;font-size:.85rem}
.reading table th{color:var(--soft);padding-right:1.2em;font-weight:400;max-width:16em;overflow-wrap:anywhere}
.reading table td{font-weight:600}
.reading .why{font-size:.82rem}
footer{margin-top:3rem;color:var(--soft);font-size:.82rem}
@media (max-width:640px){
 body{font-size:15px}
 .reading{grid-template-columns:minmax(0,1fr)}
 .reading table{grid-row:auto;grid-column:1;margin-top:.4rem}
 .plot .ends,.plot .events{display:none}
 .instead{display:block}
 .plot{grid-template-rows:210px auto;grid-template-columns:4em minmax(0,1fr) minmax(0,auto)}
 .facts{grid-template-columns:1fr;gap:0}
 .facts dd{margin-bottom:.5rem}
 .glance th,.glance td{padding-left:1.1rem}
 .bars th{max-width:6.5em}
}
@media print{body{max-width:none;padding:0}h2,.panels>*{break-inside:avoid}}
"""


def sheet() -> str:
    """The style sheet of a report."""
    cells = "".join(f".heat td.s{step}{{background:var(--s{step});color:var(--t{step})}}" for step in range(LEVELS))
    return (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}{_RULES.strip()}{cells}"
    )
