// How the evidence's page looks, on a screen in light and dark and on paper. Colours are named here alone.
#pragma once

#include <string_view>

namespace vmferry::report {

inline constexpr std::string_view page_style = R"css(
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2127;--soft:#5b6570;--line:#dfe3e8;--pale:#eef1f4;--mark:#fdf3dc;
--shutdown:#8b95a1;--copy:#2c6e9e;--conversion:#b9832a;--delivery:#c26d5c;--server:#3f8562;--snapshot:#7fb0d3;--verify:#7d65a8;--thaw:#b4c3cf;--detach:#d3dae0;
--full:#7a8b9c;--changed:#c2602d;--data:#2c6e9e}
@media (prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e3e7eb;--soft:#98a3ae;--line:#2c333a;--pale:#22282e;--mark:#3a3018;
--shutdown:#7b8691;--copy:#5aa0d2;--conversion:#d6a34c;--delivery:#c26d5c;--server:#5fae86;--snapshot:#3d7ba6;--verify:#a38bd0;--thaw:#546472;--detach:#3c464f;
--full:#8798a8;--changed:#e08a57;--data:#5aa0d2}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1040px;margin:0 auto;padding:40px 40px 64px}
.kicker{margin:0;color:var(--soft);font-size:13px;letter-spacing:.08em;text-transform:uppercase}
h1{margin:2px 0 12px;font-size:34px;line-height:1.2;font-weight:650;overflow-wrap:anywhere}
h2{margin:44px 0 12px;padding-top:14px;border-top:1px solid var(--line);font-size:19px;font-weight:650}
h3{margin:26px 0 4px;font-size:16px;font-weight:650}
.lead{margin:0;max-width:46em;font-size:18px;overflow-wrap:anywhere}
.soft,figcaption{color:var(--soft);font-size:14px}
p{margin:6px 0}
.figures{display:flex;flex-wrap:wrap;gap:14px 44px;margin:26px 0 0;padding:0}
.figures div{display:flex;flex-direction:column-reverse}
.figures dt{color:var(--soft);font-size:13px}
.figures dd{margin:0;font-size:23px;font-weight:600;font-variant-numeric:tabular-nums}
.notice{margin:18px 0 0;padding:10px 14px;background:var(--mark);border-radius:4px}
table{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;white-space:nowrap}
.scroll{overflow-x:auto}
code,pre{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
code{overflow-wrap:anywhere}
pre{margin:8px 0;padding:10px 14px;background:var(--pale);border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .value{text-anchor:end;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .tick{font-size:11px;text-anchor:middle;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:1}
.swatch{width:11px;height:11px;flex:none}
.legend{display:flex;flex-wrap:wrap;gap:4px 22px;margin:10px 0 0;padding:0;list-style:none;color:var(--soft);font-size:14px}
.legend li{display:flex;align-items:center;gap:7px}
.legend b{color:var(--ink);font-weight:600}
.p-shutdown{fill:var(--shutdown)}.p-copy{fill:var(--copy)}.p-conversion{fill:var(--conversion)}.p-delivery{fill:var(--delivery)}.p-server{fill:var(--server)}
.p-snapshot{fill:var(--snapshot)}.p-verify{fill:var(--verify)}.p-thaw{fill:var(--thaw)}.p-detach{fill:var(--detach)}
.full{fill:var(--full)}.changed{fill:var(--changed)}.data{fill:var(--data)}.hole{fill:var(--pale)}.unknown{fill:var(--conversion)}
footer{margin-top:48px;padding-top:14px;border-top:1px solid var(--line);color:var(--soft);font-size:13px;overflow-wrap:anywhere}
@media (max-width:640px){main{padding:24px 18px}h1{font-size:27px}}
@media print{:root{color-scheme:light}body{font-size:11pt}main{max-width:none;padding:0}h2{break-after:avoid}h3,svg,tr{break-inside:avoid}
svg,.notice,pre{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
)css";

}  // namespace vmferry::report
