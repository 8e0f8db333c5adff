"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page"), tip = document.getElementById("tip");

// Words and numbers.
const esc = s => String(s).replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const round = (x, d) => (+x).toFixed(d);
const time = s => s == null ? "–" : s < 1e-3 ? round(s * 1e3, 2) + " ms"
  : s < 0.9995 ? round(s * 1e3, s < 0.00995 ? 2 : s < 0.09995 ? 1 : 0) + " ms"
  : round(s, s < 9.995 ? 2 : s < 99.95 ? 1 : 0) + " s";
const short = s => s >= 1 ? +s.toPrecision(3) + " s" : +(s * 1e3).toPrecision(3) + " ms";
const percent = x => x == null ? "–" : round(x * 100, x > 0 && x < 1e-3 ? 2 : 1) + " %";
const color = i => i < 8 ? `var(--c${i})` : "var(--faint)";
const unique = list => [...new Set(list)];

// Elements.
function card(title, text, wide) {
  const el = document.createElement("section");
  el.className = wide ? "card wide" : "card";
  el.innerHTML = `<h2>${esc(title)}</h2><p>${esc(text)}</p>`;
  cards.append(el);
  return el;
}
function legend(el, items) {
  const row = document.createElement("div");
  row.className = "legend";
  row.innerHTML = items.map(([name, c]) => `<span><i style="background:${c}"></i>${esc(name)}</span>`).join("");
  el.append(row);
}
// Draws again when the width changes. `draw(width, plot)` returns SVG; elements with data-tip explain themselves.
function chart(el, height, draw) {
  el.insertAdjacentHTML("beforeend", "<svg></svg>");
  const svg = el.lastElementChild;
  let last = 0;
  const again = () => {
    const width = Math.max(260, svg.parentNode.clientWidth - pad(svg.parentNode));
    if (width === last) return;
    last = width;
    const h = typeof height === "function" ? height(width) : height;
    svg.setAttribute("viewBox", `0 0 ${width} ${h}`);
    svg.setAttribute("height", h);
    svg.innerHTML = draw(width, h);
  };
  new ResizeObserver(again).observe(el);
  again();
  return { svg, redraw() { last = 0; again(); } };
}
const pad = el => { const s = getComputedStyle(el); return parseFloat(s.paddingLeft) + parseFloat(s.paddingRight); };
function show(text, x, y) {
  tip.textContent = text;
  tip.style.visibility = "visible";
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
}
const hide = () => { tip.style.visibility = "hidden"; };
document.addEventListener("pointermove", e => {
  const on = e.target.closest && e.target.closest("[data-tip]");
  if (on) show(on.dataset.tip, e.clientX, e.clientY); else hide();
});
document.addEventListener("pointerdown", e => {
  const on = e.target.closest && e.target.closest("[data-tip]");
  if (on) show(on.dataset.tip, e.clientX, e.clientY); else hide();
});
document.addEventListener("scroll", hide, true);

// Scales.
const linear = (a, b, from, to) => x => from + (x - a) / ((b - a) || 1) * (to - from);
const log = (a, b, from, to) => x => linear(Math.log(a), Math.log(b), from, to)(Math.log(Math.min(Math.max(x, a), b)));
function steps(a, b, about) {
  const rough = (b - a) / about || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  const all = [];
  for (let x = Math.ceil(a / step) * step; x <= b + step * 1e-6; x += step) all.push(+x.toPrecision(12));
  return all;
}
function decades(a, b, many) {
  const all = [];
  for (let p = Math.floor(Math.log10(a)); p <= Math.ceil(Math.log10(b)); p++)
    for (const m of Math.log10(b / a) > (many ? 2.2 : 1.2) ? [1] : [1, 2, 5]) {
      const x = +(m * 10 ** p).toPrecision(6);
      if (x >= a * 0.999 && x <= b * 1.001) all.push(x);
    }
  if (all.length < 2) for (const x of steps(a, b, 4)) if (x > 0 && !all.includes(x)) all.push(x);
  return all.sort((x, y) => x - y);
}
// From the least to the greatest, but not past `most` times the least.
const range = (values, most = Infinity) => {
  const good = values.filter(x => x > 0);
  if (!good.length) return [1e-3, 1];
  const low = Math.min(...good), high = Math.min(Math.max(...good), low * most);
  return high / low < 1.5 ? [low / 1.4, high * 1.4] : [low / 1.08, high * 1.08];
};
function yAxis(ticks, y, left, right, text) {
  return ticks.map(t => `<line class="grid" x1="${left}" x2="${right}" y1="${y(t)}" y2="${y(t)}"/>` +
    `<text x="${left - 7}" y="${y(t) + 4}" text-anchor="end">${text(t)}</text>`).join("");
}
function xAxis(ticks, x, bottom, top, text) {
  let reach = -1e9;
  return ticks.map(t => {
    const at = x(t), room = at - reach > 46;
    if (room) reach = at;
    return `<line class="grid" x1="${at}" x2="${at}" y1="${top}" y2="${bottom}"/>` +
      (room ? `<text x="${at}" y="${bottom + 17}" text-anchor="middle">${text(t)}</text>` : "");
  }).join("");
}
const path = points => points.map(([x, y], i) => (i ? "L" : "M") + round(x, 1) + " " + round(y, 1)).join("");

// Head.
const R = D.runs[0];
page.innerHTML = `<header><h1>${esc(D.title)}</h1><p>${esc(D.subtitle)}</p></header>` +
  (D.notes.length ? `<ul class="notes">${D.notes.map(n => `<li>${esc(n)}</li>`).join("")}</ul>` : "");
const cards = document.createElement("div");
const foot = document.createElement("footer");
cards.className = "cards";
foot.textContent = `llamero ${D.llamero}. Latencies count from when a request was meant to be sent. A failed request counts as ` +
  `${time(D.timeout)} in percentiles. Goodput: first token within ${short(D.slo.ttft)}, then ${short(D.slo.tpot)} a token.`;
function tiles(list) {
  const row = document.createElement("div");
  row.className = "tiles";
  row.innerHTML = list.map(([name, number, more, mood]) => `<div class="tile ${mood || ""}"><div class="name">${esc(name)}</div>` +
    `<div class="number">${esc(number)}</div><div class="more">${esc(more)}</div></div>`).join("");
  page.append(row);
}
// A live run.
function live() {
  const S = D.series, s = x => x || { p50: null, p90: null, p99: null };
  const failed = R.errors.refused + R.errors.answered + R.errors.broken + R.errors.timed_out;
  tiles([
    ["First token", time(s(R.ttft).p50), `p99 ${time(s(R.ttft).p99)}`],
    ["Each token", time(s(R.tpot).p50), `p99 ${time(s(R.tpot).p99)}`],
    ["Whole answer", time(s(R.e2e).p50), `p99 ${time(s(R.e2e).p99)}`],
    ["Goodput", percent(R.goodput), "good answers", R.goodput > 0.99 ? "good" : R.goodput < 0.9 ? "bad" : ""],
    ["Errors", percent(R.errors.share), `${failed} of ${R.requests}`, failed ? "bad" : "good"],
    ["Throughput", round(R.tokens_per_second, R.tokens_per_second < 10 ? 1 : 0), `tokens a second`],
  ]);
  page.append(cards);
  if (S) { timeline(S); distribution(S); perToken(S); }
  nodes();
  if (S) overTime(S);
  numbers();
}
const FAILED = ["", "refused", "answered with an error", "broken off", "timed out"];
const KINDS = [["served", "var(--c0)"], ["refused", "var(--c1)"], ["error", "var(--c7)"], ["broken", "var(--bad)"], ["timed out", "var(--c4)"]];
function timeline(S) {
  const n = S.dots.length < S.of ? `${S.dots.length} of ${S.of} requests` : "Every request";
  const el = card("Latency over time", `${n}: when it was meant to be sent, and how long until its answer was whole. Lines are of ${short(S.bucket)} each.`, true);
  const several = R.nodes.length > 1, few = S.buckets.length < 3;
  const names = several ? R.nodes.map((n, i) => [n.name, color(i)]).slice(0, 8) : [["request", color(0)]];
  legend(el, names.concat(failedAny() ? [["failed", "var(--bad)"]] : [], few ? [] : [["median", "var(--text)"], ["p99", "var(--soft)"]]));
  chart(el, w => w < 520 ? 270 : 320, (w, h) => {
    const left = 56, right = w - 10, top = 10, bottom = h - 26;
    const begin = S.buckets[0].at, end = S.buckets[S.buckets.length - 1].at + S.bucket;
    const [a, b] = range(S.dots.map(d => d[2]).concat(S.buckets.flatMap(x => [x.p50, x.p99])));
    const x = linear(begin, end, left + 6, right - 6), y = log(a, b, bottom, top);
    const mid = k => S.buckets.map(p => [x(p.at + S.bucket / 2), y(p[k])]);
    const many = S.dots.length > 800;
    const dots = S.dots.map(([at, ttft, total, node, kind]) => {
      const text = `${kind ? FAILED[kind] + " after " : ""}${time(total)}` + (ttft != null ? `, first token ${time(ttft)}` : "") +
        `\nsent at ${round(at, 1)} s` + (node != null ? `\n${R.nodes[node].name}` : "");
      const X = round(x(at), 1), Y = round(y(total), 1);
      return kind
        ? `<path d="M${X - 3.5} ${Y - 3.5}l7 7m0-7l-7 7" stroke="var(--bad)" stroke-width="2" data-tip="${esc(text)}"/>`
        : `<circle cx="${X}" cy="${Y}" r="${many ? 2 : 3.5}" fill="${color(several && node != null ? node : 0)}" fill-opacity="${many ? .4 : .6}" data-tip="${esc(text)}"/>`;
    }).join("");
    const line = (k, style) => `<path d="${path(mid(k))}" fill="none" stroke-linejoin="round" pointer-events="none" ${style}/>`;
    return yAxis(decades(a, b, true), y, left, right, short) + xAxis(steps(begin, end, w / 110), x, bottom, top, t => t + " s") + dots +
      (few ? "" : line("p99", 'stroke="var(--soft)" stroke-width="2" stroke-dasharray="3 4"') + line("p50", 'stroke="var(--text)" stroke-width="2.5"'));
  });
}
const failedAny = () => R.errors.share > 0;
function curves(el, lines, limits) {
  legend(el, lines.map(l => [l.name, l.color]));
  chart(el, 270, (w, h) => {
    const left = 46, right = w - 14, top = 12, bottom = h - 26;
    const [a, b] = range(lines.flatMap(l => l.q).concat(limits.map(l => l[0])));
    const x = log(a, b, left, right), y = linear(0, 1, bottom, top);
    const line = l => `<path d="${path(l.q.map((v, i) => [x(v), y(i / (l.q.length - 1))]))}" fill="none" stroke="${l.color}" stroke-width="2.5" stroke-linejoin="round"/>`;
    const marks = l => [0.5, 0.9, 0.99].map(p => {
      const v = l.q[Math.round(p * (l.q.length - 1))];
      return `<circle cx="${x(v)}" cy="${y(p)}" r="4.5" fill="var(--card)" stroke="${l.color}" stroke-width="2.5" data-tip="${esc(`${l.name}\np${p * 100}: ${time(v)}`)}"/>`;
    }).join("");
    const limit = ([v, text]) => {
      const over = x(v) + 7 * text.length > right;
      return `<line class="slo" x1="${x(v)}" x2="${x(v)}" y1="${top}" y2="${bottom}"/>` +
        `<text x="${x(v) + (over ? -6 : 6)}" y="${bottom - 7}" text-anchor="${over ? "end" : "start"}">${text}</text>`;
    };
    return yAxis([0, .25, .5, .75, 1], y, left, right, t => t * 100 + " %") + xAxis(decades(a, b, w > 480), x, bottom, top, short) +
      limits.map(limit).join("") + lines.map(line).join("") + lines.map(marks).join("");
  });
}
function distribution(S) {
  const el = card("How long answers take", "Share of requests that were done after a time. Steep is steady, a long tail is luck.");
  const lines = [{ name: "first token", q: S.ttft, color: "var(--c2)" }, { name: "whole answer", q: S.e2e, color: "var(--c0)" }];
  curves(el, lines.filter(l => l.q.length), [[D.slo.ttft, "goal for the first token"]]);
}
function perToken(S) {
  if (!S.tpot.length) return;
  const el = card("How fast answers are written", "Time for each token after the first, on the mean of an answer.");
  curves(el, [{ name: "time per token", q: S.tpot, color: "var(--c4)" }], [[D.slo.tpot, "goal"]]);
}
function nodes() {
  if (!R.nodes.length) return;
  const el = card("Who answered", `Requests per node.` + (R.nodes.length > 1 ? ` Fairness ${round(R.jain, 2)} by Jain's index; 1 would be equal shares.` : ""));
  const most = Math.max(...R.nodes.map(n => n.share));
  const row = Math.max(44, Math.min(72, 240 / R.nodes.length));
  chart(el, 16 + row * R.nodes.length, w => {
    const right = w - 8;
    return R.nodes.map((n, i) => {
      const y = 8 + i * row, width = Math.max(2, n.share / most * (right - 4));
      const text = `${n.name}\n${n.requests} requests, ${percent(n.share)}\n${n.tokens} tokens` + (n.e2e ? `\nwhole answer p50 ${time(n.e2e.p50)}, p99 ${time(n.e2e.p99)}` : "");
      return `<g data-tip="${esc(text)}"><rect x="0" y="${y - 4}" width="${w}" height="42" fill="transparent"/>` +
        `<text class="label strong" x="0" y="${y + 12}">${esc(n.name)}</text>` +
        `<text x="${right}" y="${y + 12}" text-anchor="end">${percent(n.share)} · p50 ${time(n.e2e && n.e2e.p50)} · p99 ${time(n.e2e && n.e2e.p99)}</text>` +
        `<rect x="0" y="${y + 18}" width="${right}" height="10" rx="5" fill="var(--grid)"/><rect x="0" y="${y + 18}" width="${width}" height="10" rx="5" fill="${color(i)}"/></g>`;
    }).join("");
  });
}
function overTime(S) {
  const el = card("Requests and errors", `Requests sent per ${S.bucket === 1 ? "second" : short(S.bucket)}, and what became of them.`);
  const used = KINDS.filter((_, k) => k === 0 || S.buckets.some(b => b.failed[k - 1]));
  legend(el, used);
  chart(el, 250, (w, h) => {
    const left = 40, right = w - 8, top = 10, bottom = h - 26;
    const begin = S.buckets[0].at, end = S.buckets[S.buckets.length - 1].at + S.bucket;
    const most = Math.max(...S.buckets.map(b => b.requests));
    const x = linear(begin, end, left, right), y = linear(0, most, bottom, top);
    const wide = Math.max(1, x(begin + S.bucket) - left - (S.buckets.length > 90 ? .5 : 2));
    const bars = S.buckets.map(b => {
      const counts = [b.requests - b.failed.reduce((p, q) => p + q, 0), ...b.failed];
      let sum = 0;
      const text = `${round(b.at, 1)} s\n` + counts.map((c, k) => c ? `${c} ${KINDS[k][0]}` : "").filter(Boolean).join("\n") + `\np50 ${time(b.p50)}, p99 ${time(b.p99)}`;
      return `<g data-tip="${esc(text)}"><rect x="${x(b.at)}" y="${top}" width="${wide}" height="${bottom - top}" fill="transparent"/>` + counts.map((c, k) => {
        if (!c) return "";
        sum += c;
        return `<rect x="${x(b.at)}" y="${y(sum)}" width="${wide}" height="${y(sum - c) - y(sum)}" fill="${KINDS[k][1]}"/>`;
      }).join("") + "</g>";
    }).join("");
    return yAxis(steps(0, most, 4).filter(Number.isInteger), y, left, right, String) + xAxis(steps(begin, end, w / 100), x, bottom, bottom, t => t + " s") + bars;
  });
}
function numbers() {
  const el = card("In numbers", "Exact percentiles of all requests.", true);
  const head = ["", "mean", "p50", "p90", "p95", "p99", "max", "requests"];
  const row = (name, s) => s ? `<tr><td>${name}</td>${[s.mean, s.p50, s.p90, s.p95, s.p99, s.max].map(v => `<td>${time(v)}</td>`).join("")}<td>${s.count}</td></tr>` : "";
  const facts = [`${R.retries} retries`];
  if (R.cached_prompt_share > 0) facts.push(`${percent(R.cached_prompt_share)} of prompt tokens cached`);
  if (R.lag) facts.push(`requests sent ${time(R.lag.p50)} late at p50 and ${time(R.lag.p99)} at p99`);
  el.insertAdjacentHTML("beforeend", `<div class="scroll"><table class="plain"><tr>${head.map(h => `<th>${h}</th>`).join("")}</tr>` +
    row("first token", R.ttft) + row("each token", R.tpot) + row("whole answer", R.e2e) + `</table></div><p>${esc(facts.join(" · "))}</p>`);
}

// Strategies compared.
function sim() {
  const C = D.cells, scenarios = unique(C.map(c => c.scenario)), loads = unique(C.map(c => c.load)).sort((a, b) => a - b);
  const score = name => {
    const own = C.filter(c => c.strategy === name && c.ratio > 0).map(c => Math.log(c.ratio));
    return own.length ? own.reduce((a, b) => a + b, 0) / own.length : 1e9;
  };
  const strategies = unique(C.map(c => c.strategy)).sort((a, b) => score(a) - score(b));
  const rivals = strategies.filter(s => s !== D.baseline);
  const hue = Object.fromEntries(strategies.map(s => [s, s === D.baseline ? "var(--soft)" : color(rivals.indexOf(s))]));
  const against = D.baseline || "the best";
  const usual = loads.reduce((p, q) => Math.abs(q - 0.7) < Math.abs(p - 0.7) ? q : p, loads[0]);
  const state = { load: usual, scenario: scenarios[0] };
  const at = (scenario, strategy, load) => C.find(c => c.scenario === scenario && c.strategy === strategy && c.load === load);
  const mean = e => e ? e.mean : null;
  const listeners = [];
  function chips(el, key, values, text) {
    if (values.length < 2) return;
    const row = document.createElement("div");
    row.className = "chips";
    for (const value of values) {
      const b = document.createElement("button");
      b.textContent = text(value);
      b.onclick = () => { state[key] = value; listeners.forEach(f => f()); };
      listeners.push(() => b.setAttribute("aria-pressed", state[key] === value));
      row.append(b);
    }
    el.append(row);
  }
  const top = rivals[0] || strategies[0], factor = name => Math.exp(score(name));
  const seeds = Math.max(0, ...C.map(c => c.seeds.length));
  tiles([
    ["Best over all", top || "–", top ? `${round(factor(top), 2)} × ${against}, geometric mean` : "", "good"],
    ["Runner-up", rivals[1] || "–", rivals[1] ? `${round(factor(rivals[1]), 2)} × ${against}` : ""],
    ["Compared", `${strategies.length} strategies`, `in ${scenarios.length} scenario${scenarios.length > 1 ? "s" : ""}`],
    ["Runs", String(D.runs.length), `${seeds} seed${seeds > 1 ? "s" : ""}, ${D.runs.reduce((n, r) => n + r.requests, 0).toLocaleString("en")} requests`],
  ]);
  page.append(cards);

  const heat = card("Who wins where", `Mean time to the whole answer, as a multiple of ${against}: 1.00 is as good. Best strategies first; the stronger the colour, the slower.`, true);
  chips(heat, "load", loads, l => l == null ? "all" : `${Math.round(l * 100)} % load`);
  const table = document.createElement("div");
  table.className = "scroll";
  heat.append(table);
  listeners.push(() => {
    const cell = (scenario, strategy) => {
      const c = at(scenario, strategy, state.load);
      if (!c || c.ratio == null) return "<td></td>";
      const r = c.ratio, depth = Math.min(1, Math.log(Math.max(r, 1)) / Math.log(12));
      const fill = r < 1.025 ? "rgba(var(--best), .32)" : `rgba(var(--heat), ${round(.07 + .73 * depth, 2)})`;
      const text = `${strategy} in ${scenario}\nmean ${time(mean(c.e2e_mean))}` + (c.seeds.length > 1 ? ` (${time(c.e2e_mean.low)} to ${time(c.e2e_mean.high)})` : "") +
        `\np99 ${time(mean(c.e2e_p99))}, first token p50 ${time(mean(c.ttft_p50))}\ngoodput ${percent(mean(c.goodput))}, errors ${percent(mean(c.errors))}`;
      return `<td style="background:${fill}${r < 1.025 ? ";font-weight:650" : ""}" data-tip="${esc(text)}">${r >= 100 ? ">100" : round(r, r < 10 ? 2 : 0)}</td>`;
    };
    const seconds = scenarios.map(s => {
      const all = strategies.map(n => at(s, n, state.load)).filter(Boolean);
      const base = D.baseline ? all.find(c => c.strategy === D.baseline) : all.find(c => c.ratio === 1);
      return `<th>${time(base && mean(base.e2e_mean))}</th>`;
    }).join("");
    table.innerHTML = `<table><tr><th></th>${scenarios.map(s => `<th>${esc(s)}</th>`).join("")}</tr><tr><th style="font-weight:400">${esc(against)} takes</th>${seconds}</tr>` +
      strategies.map(n => `<tr><td>${esc(n)}</td>${scenarios.map(s => cell(s, n)).join("")}</tr>`).join("") + "</table>";
  });

  const spread = card("Typical and worst", "From the median (dot) over the 95th percentile (end of the bar) to the 99th (end of the line).", false);
  chips(spread, "scenario", scenarios, String);
  const bars = chart(spread, () => 40 + 30 * strategies.length, (w, h) => {
    const rows = strategies.map(n => at(state.scenario, n, state.load)).filter(Boolean).sort((p, q) => mean(p.e2e_p99) - mean(q.e2e_p99));
    const left = Math.min(170, w * .38), right = w - 12, bottom = h - 26;
    const [a, b] = range(rows.flatMap(c => [mean(c.e2e_p50), mean(c.e2e_p99)]), 300);
    const x = log(a, b, left + 8, right);
    return xAxis(decades(a, b, w > 480), x, bottom, 2, short) + rows.map((c, i) => {
      const y = 16 + i * 30, p = [c.e2e_p50, c.e2e_p95, c.e2e_p99].map(mean), X = p.map(x);
      const text = `${c.strategy}\np50 ${time(p[0])}\np95 ${time(p[1])}\np99 ${time(p[2])}`;
      return `<g data-tip="${esc(text)}"><rect x="0" y="${y - 14}" width="${w}" height="28" fill="transparent"/><text class="label" x="${left}" y="${y + 4}" text-anchor="end">${esc(c.strategy)}</text>` +
        `<line x1="${X[0]}" x2="${X[2]}" y1="${y}" y2="${y}" stroke="${hue[c.strategy]}" stroke-width="2"/><line x1="${X[2]}" x2="${X[2]}" y1="${y - 5}" y2="${y + 5}" stroke="${hue[c.strategy]}" stroke-width="2"/>` +
        `<rect x="${X[0]}" y="${y - 5}" width="${Math.max(1, X[1] - X[0])}" height="10" rx="2" fill="${hue[c.strategy]}" fill-opacity=".55"/><circle cx="${X[0]}" cy="${y}" r="6" fill="${hue[c.strategy]}"/></g>`;
    }).join("");
  });
  listeners.push(() => bars.redraw());

  if (loads.length > 1) {
    const lines = card("As load grows", "Mean time to the whole answer over offered load. What runs along the upper edge is beyond it.", false);
    chips(lines, "scenario", scenarios, String);
    const key = document.createElement("div");
    lines.append(key);
    const plot = chart(lines, 360, (w, h) => {
      const left = 52, right = w - 14, top = 10, bottom = h - 26;
      const all = strategies.map(n => [n, loads.map(l => at(state.scenario, n, l)).filter(c => c && c.e2e_mean)]).filter(s => s[1].length);
      const [a, b] = range(all.flatMap(s => s[1].flatMap(c => [c.e2e_mean.low, c.e2e_mean.high])), 60);
      const x = linear(loads[0], loads[loads.length - 1], left + 8, right - 8), y = log(a, b, bottom, top);
      key.innerHTML = "";
      legend(key, all.map(([n]) => [n, hue[n]]));
      return yAxis(decades(a, b, true), y, left, right, short) + xAxis(loads, x, bottom, top, l => Math.round(l * 100) + " %") + all.reverse().map(([n, cells]) =>
        `<path d="${path(cells.map(c => [x(c.load), y(c.e2e_mean.mean)]))}" fill="none" stroke="${hue[n]}" stroke-width="2.5" stroke-linejoin="round"/>` + cells.map(c => {
          const X = x(c.load), e = c.e2e_mean;
          const text = `${n} at ${Math.round(c.load * 100)} % load\nmean ${time(e.mean)}` + (c.seeds.length > 1 ? `\n95 % of ${time(e.low)} to ${time(e.high)}` : "") + `\n${round(c.ratio, 2)} × ${against}`;
          return `<line x1="${X}" x2="${X}" y1="${y(e.low)}" y2="${y(e.high)}" stroke="${hue[n]}" stroke-width="1.5"/><circle cx="${X}" cy="${y(e.mean)}" r="4.5" fill="${hue[n]}" data-tip="${esc(text)}"/>`;
        }).join("")).join("");
    });
    listeners.push(() => plot.redraw());
  } else spread.classList.add("wide");

  const full = card("In numbers", "The chosen scenario and load; means over seeds.", true);
  const rows = document.createElement("div");
  rows.className = "scroll";
  full.append(rows);
  listeners.push(() => {
    const columns = [["mean", c => time(mean(c.e2e_mean))], ["×", c => c.ratio == null ? "–" : round(c.ratio, 2)], ["p50", c => time(mean(c.e2e_p50))], ["p95", c => time(mean(c.e2e_p95))],
      ["p99", c => time(mean(c.e2e_p99))], ["TTFT p50", c => time(mean(c.ttft_p50))], ["TTFT p99", c => time(mean(c.ttft_p99))], ["per token", c => time(mean(c.tpot_p50))],
      ["goodput", c => percent(mean(c.goodput))], ["errors", c => percent(mean(c.errors))], ["cached", c => percent(mean(c.cached_prompt_share))],
      ["loads/1k", c => c.loads_per_1000 ? round(c.loads_per_1000.mean, 1) : "–"], ["retries/1k", c => c.retries_per_1000 ? round(c.retries_per_1000.mean, 1) : "–"], ["fairness", c => c.jain ? round(c.jain.mean, 2) : "–"]];
    const own = strategies.map(n => at(state.scenario, n, state.load)).filter(Boolean).sort((p, q) => mean(p.e2e_mean) - mean(q.e2e_mean));
    rows.innerHTML = `<table class="plain"><tr><th>${esc(state.scenario)}${state.load == null ? "" : ", " + Math.round(state.load * 100) + " %"}</th>${columns.map(c => `<th>${c[0]}</th>`).join("")}</tr>` +
      own.map(c => `<tr><td>${esc(c.strategy)}</td>${columns.map(f => `<td>${f[1](c)}</td>`).join("")}</tr>`).join("") + "</table>";
  });
  listeners.forEach(f => f());
}

// Strategies compared on fleets that have nothing in common.
function fleets() {
  page.append(cards);
  const el = card("Fleet by fleet", `Each strategy on ${D.ratios[0].fleets} random fleets, as a multiple of ${D.baseline} on the same fleet: below 1 is better.`, true);
  const names = { e2e_mean: "mean time to the whole answer", e2e_p95: "its 95th percentile", ttft_mean: "mean time to first token" };
  const head = ["", "strategy", "geometric mean", "95 % of fleets", "worst", "fleet", "above 1.05"];
  el.insertAdjacentHTML("beforeend", `<div class="scroll"><table class="plain"><tr>${head.map(h => `<th>${h}</th>`).join("")}</tr>` +
    D.ratios.map(r => `<tr><td>${names[r.quantity]}</td><td>${esc(r.strategy)}</td><td>${round(r.geo_mean, 3)}</td><td>${round(r.p95, 2)}</td>` +
      `<td>${round(r.worst, 2)}</td><td>${r.worst_seed}</td><td>${percent(r.worse)}</td></tr>`).join("") + "</table></div>");
}

if (D.kind === "live" && R) live(); else if (D.ratios) fleets(); else sim();
page.append(foot);
