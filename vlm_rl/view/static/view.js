"use strict";
// Draws charts and tokens, follows a run that goes on, and listens for keys. Text is set as text.
(() => {
  const COLOURS = ["#1f6fb4", "#d2601a", "#25853a", "#8250b4", "#a8324a", "#6b4a34", "#c2399b", "#5a6472"];
  const HEIGHT = 220;
  const main = document.getElementById("main");
  const holder = document.getElementById("data");
  const data = holder ? JSON.parse(holder.textContent) : {};
  const exported = "export" in main.dataset;
  const $ = (id) => document.getElementById(id);
  const make = (tag, parent, text, cls) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (cls) element.className = cls;
    if (parent) parent.append(element);
    return element;
  };
  const shown = (v) => (v === null || v === undefined ? "–" : Number(v.toPrecision(4)).toString());

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = target.clientWidth - 14;
      if (target.plot && width > 40 && target.plot.width !== width) target.plot.setSize({ width, height: HEIGHT });
    }
  });

  function chart(box, series, columns, label) {
    if (box.plot) box.plot.destroy();
    box.plot = new uPlot({
      width: Math.max(box.clientWidth - 14, 40), height: HEIGHT,
      scales: { x: { time: false } },
      cursor: { sync: { key: "all" }, drag: { x: true, y: false } },
      axes: [{ label, labelSize: 18, size: 32 }, { size: 58, values: (_, ticks) => ticks.map((t) => (t === null ? "" : shown(t))) }],
      series: [{ label }, ...series.map((one) => ({
        label: one.label, stroke: one.colour, width: 1.6, spanGaps: true, points: { show: columns[0].length < 60, size: 5 },
        value: (_, v) => shown(v) }))],
    }, columns, box);
    sizes.observe(box);
  }

  function smoothed(values, factor) {
    let mean = 0, weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = factor * mean + (1 - factor) * value;
      weight = factor * weight + 1 - factor;
      return mean / weight;
    });
  }

  function box(parent, title) {
    const found = [...parent.children].find((one) => one.dataset.title === title);
    if (found) return found;
    const made = make("section", parent, undefined, "chart");
    made.dataset.title = title;
    made.setAttribute("aria-label", title);
    make("h3", made, title);
    return made;
  }

  function drawCurves() {
    const parent = $("charts");
    const off = new Set([...document.querySelectorAll("#runs input:not(:checked)")].map((one) => one.value));
    const factor = Number($("smooth") ? $("smooth").value : 0);
    for (const one of [...parent.children]) if (!(one.dataset.title in data.curves)) { if (one.plot) one.plot.destroy(); one.remove(); }
    for (const [metric, runs] of Object.entries(data.curves)) {
      const names = Object.keys(runs).filter((name) => !off.has(name));
      const at = box(parent, metric);
      if (!names.length) { if (at.plot) at.plot.destroy(); at.plot = null; continue; }
      const tables = names.map((name) => [runs[name][0], factor ? smoothed(runs[name][1], factor) : runs[name][1]]);
      const series = names.map((name) => ({ label: name, colour: COLOURS[data.runs.indexOf(name) % COLOURS.length] }));
      chart(at, series, tables.length > 1 ? uPlot.join(tables) : tables[0], "step");
    }
  }

  function drawLength() {
    const bins = [...data.bins].sort((a, b) => a.mean_length - b.mean_length);
    const lengths = bins.map((bin) => bin.mean_length);
    const groups = {
      "share of completions inside the band, and of gradients kept": { inside: "inside", accepted: "kept" },
      "share of tokens cut off from the gradient": { clipped_low: "lower end", clipped_high: "upper end", clipped_dual: "dual clip" },
      "gradient weight of a token": { weight_first: "at ratio 1", weight: "later updates" },
    };
    for (const [title, names] of Object.entries(groups)) {
      const series = Object.values(names).map((label, i) => ({ label, colour: COLOURS[i] }));
      const columns = Object.keys(names).map((name) => bins.map((bin) => bin[name] ?? null));
      chart(box($("charts"), title), series, [lengths, ...columns], "length in tokens");
    }
  }

  function wireCurves() {
    const boxes = [...document.querySelectorAll("#metrics input")];
    const refresh = async () => {
      const names = boxes.filter((one) => one.checked).map((one) => one.value);
      const query = new URLSearchParams(names.map((name) => ["m", name]));
      data.curves = names.length ? await (await fetch(`/curves.json?${query}`)).json() : {};
      history.replaceState(null, "", names.length ? `/?metrics=${encodeURIComponent(names.join(","))}` : "/");
      drawCurves();
    };
    boxes.forEach((one) => one.addEventListener("change", refresh));
    document.querySelectorAll("#runs input").forEach((one) => one.addEventListener("change", drawCurves));
    if ($("smooth")) $("smooth").addEventListener("change", drawCurves);
    const find = $("find-metric");
    if (find) find.addEventListener("input", () => {
      const text = find.value.toLowerCase();
      for (const section of $("metrics").children) {
        let any = false;
        for (const label of section.querySelectorAll("label")) {
          const hit = label.firstChild.value.toLowerCase().includes(text);
          label.hidden = !hit;
          label.classList.toggle("gone", !hit);
          any = any || hit;
        }
        section.hidden = !any;
        if (text && any) section.open = true;
      }
    });
    return refresh;
  }

  // Classes p0..p5 and n1..n5 are shades: away from `middle`, up to `far`.
  function shade(value, middle, far) {
    if (value === null || value === undefined || far === 0) return "p0";
    const level = Math.min(5, Math.round((5 * Math.abs(value - middle)) / far));
    return level === 0 ? "p0" : (value > middle ? "p" : "n") + level;
  }

  const CLIPS = { "": "p0", low: "n4", high: "p4", dual: "p5" };

  function colourTokens(name) {
    const { tokens } = data, values = tokens[name], scale = $("scale");
    scale.replaceChildren();
    const swatch = (cls, text) => { make("i", scale, undefined, cls); make("span", scale, ` ${text} `); };
    if (name === "clipped") {
      data.spans.forEach((span, i) => { span.className = CLIPS[values[i]] ?? "p0"; });
      swatch("p0", "kept"); swatch("n4", "lower end"); swatch("p4", "upper end"); swatch("p5", "dual clip");
      return;
    }
    const known = values.filter((v) => v !== null);
    if (!known.length) { scale.textContent = "not known"; data.spans.forEach((span) => { span.className = "p0"; }); return; }
    const middle = name === "ratio" ? 1 : 0;
    const far = Math.max(...known.map((v) => Math.abs(v - middle)));
    data.spans.forEach((span, i) => { span.className = shade(values[i], middle, far); });
    if (name !== "entropy") swatch("n5", shown(middle - far));
    swatch("p0", shown(middle)); swatch("p5", shown(middle + far));
    if (name === "entropy") make("span", scale, "nats");
  }

  function wireTokens() {
    const place = $("tokens"), { tokens } = data;
    data.spans = tokens.text.map((text, i) => { const span = make("span", place, text); span.dataset.i = i; return span; });
    let at = -1;
    const tell = (i) => {
      const parts = [["logprob", "log-probability"], ["entropy", "entropy"], ["ratio", "ratio"], ["advantage", "advantage"]]
        .map(([name, label]) => `${label} ${shown(tokens[name][i])}`);
      const clip = tokens.clipped[i] ? `clipped (${tokens.clipped[i]})` : "not clipped";
      $("token").textContent = `${i + 1} of ${tokens.text.length} ${JSON.stringify(tokens.text[i])}: ${parts.join(", ")}, ${clip}`;
    };
    place.addEventListener("mouseover", (event) => { if (event.target.dataset.i !== undefined) tell(Number(event.target.dataset.i)); });
    place.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      if (at >= 0) data.spans[at].classList.remove("at");
      at = Math.max(0, Math.min(data.spans.length - 1, at + move));
      data.spans[at].classList.add("at");
      data.spans[at].scrollIntoView({ block: "nearest" });
      tell(at);
    });
    const radios = [...document.querySelectorAll("input[name=colour]")];
    radios.forEach((one) => one.addEventListener("change", () => colourTokens(one.value)));
    colourTokens(radios.find((one) => one.checked).value);
  }

  async function follow(refresh) {
    let before = null;
    const ask = async () => {
      let now;
      try { now = await (await fetch("/state.json")).json(); } catch { $("live").textContent = "the server has ended"; return; }
      const runs = main.dataset.run ? { [main.dataset.run]: now[main.dataset.run] } : now;
      const behind = Object.values(runs).reduce((sum, one) => sum + one.files - one.indexed, 0);
      const damaged = Object.values(runs).flatMap((one) => one.damaged);
      const text = JSON.stringify(Object.values(runs).map((one) => [one.rows, one.indexed]));
      const step = Math.max(...Object.values(runs).map((one) => one.step));
      let line = behind ? `reading rollouts, ${behind} files to go` : `step ${step}`;
      if (damaged.length) line += `, ${damaged.length} damaged`;
      if (before !== null && text !== before) {
        if (refresh) refresh(); else if (!behind) line += ", new since this page was loaded";
      }
      if (refresh || before === null) before = text;
      $("live").textContent = line;
      $("live").title = damaged.join("\n");
      setTimeout(ask, 3000);
    };
    await ask();
  }

  function wireKeys() {
    const help = $("help");
    $("keys").addEventListener("click", () => help.showModal());
    const link = new URL(location.href);
    link.searchParams.set("export", "1");
    $("export").href = link;
    $("export").addEventListener("click", () => {  // with the metrics that are shown now
      const now = new URL(location.href);
      now.searchParams.set("export", "1");
      $("export").href = now;
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      const go = (selector) => { const found = document.querySelector(selector); if (found) { event.preventDefault(); found.click(); } };
      if (event.key === "?") help.showModal();
      else if (event.key === "/") { const field = document.querySelector("input[type=search]"); if (field) { event.preventDefault(); field.focus(); } }
      else if (event.key === "[") go("a[rel=prev]");
      else if (event.key === "]") go("a[rel=next]");
      else if (/^[1-5]$/.test(event.key)) go(`nav a[data-key="${event.key}"]`);
    });
  }

  let refresh = null;
  if (data.kind === "curves") { drawCurves(); refresh = wireCurves(); if (!$("metrics")) refresh = null; }
  if (data.kind === "length") drawLength();
  if (data.kind === "tokens") wireTokens();
  const side = document.querySelector(".side");
  if (side && matchMedia("(max-width: 760px)").matches) side.open = false;
  if (!exported) { wireKeys(); follow(refresh); }
})();
