// The figure against a cost, all budgets of one model: points with spread over seeds, what nothing dominates, the dense figure.
(() => {
  const box = document.getElementById("plot");
  const data = JSON.parse(document.getElementById("plot-data").textContent);
  const holder = box.querySelector(".canvas");
  const legend = box.querySelector(".legend");
  const tip = box.querySelector(".tip");
  const title = box.querySelector(".title");
  const form = document.getElementById("filters");
  const choice = () => box.querySelector("input[name=axis]:checked").value;
  const NAMES = { macs: "MACs", params: "Parameters", latency: "Latency" };
  const SVG = "http://www.w3.org/2000/svg";
  let chosen = null;

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  }

  function shape(kind, x, y, r) {
    const path = {
      o: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
      s: `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
      "^": `M${x} ${y - r * 1.2}l${r * 1.15} ${r * 2}h${-r * 2.3}z`,
      v: `M${x} ${y + r * 1.2}l${r * 1.15} ${-r * 2}h${-r * 2.3}z`,
      D: `M${x} ${y - r * 1.3}l${r * 1.3} ${r * 1.3}l${-r * 1.3} ${r * 1.3}l${-r * 1.3} ${-r * 1.3}z`,
      P: `M${x - r / 2} ${y - r * 1.2}h${r}v${r * 0.7}h${r * 0.7}v${r}h${-r * 0.7}v${r * 0.7}h${-r}v${-r * 0.7}h${-r * 0.7}v${-r}h${r * 0.7}z`,
      X: `M${x - r} ${y - r}l${r} ${r * 0.6}l${r} ${-r * 0.6}l${-r * 0.6} ${r}l${r * 0.6} ${r}l${-r} ${-r * 0.6}l${-r} ${r * 0.6}l${r * 0.6} ${-r}z`,
    };
    return path[kind];
  }

  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) found.push(at * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  const percent = (share) => `${(100 * share).toFixed(1)}%`;

  function lines(point, axis) {
    const told = [point.label, `${point.budget}: ${point.mean.toFixed(4)}${point.std === null ? "" : ` ± ${point.std.toFixed(4)}`}, ${point.seeds} seed${point.seeds === 1 ? "" : "s"}`];
    for (const name of Object.keys(NAMES)) if (point.kept[name] !== undefined) told.push(`${NAMES[name]}: ${percent(point.kept[name])} of dense`);
    if (point.front[axis]) told.push("on the Pareto front");
    if (point.state !== "ranked") told.push(point.state);
    return told;
  }

  function hint(point, axis, x, y, scale) {
    tip.replaceChildren(...lines(point, axis).map((text, index) => {
      const line = document.createElement(index ? "div" : "strong");
      line.textContent = text;
      return line;
    }));
    tip.hidden = false;
    const left = holder.offsetLeft + x * scale;
    tip.style.left = `${Math.max(4, Math.min(left + 12, box.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, holder.offsetTop + y * scale - tip.offsetHeight - 12)}px`;
  }

  function draw() {
    tip.hidden = true;
    const group = data.settings.find((one) => ["suite", "division", "task", "model"].every((name) => !form.elements[name].value || one[name] === form.elements[name].value));
    const need = form.elements.need.value;
    const axis = choice();
    const points = group ? group.points.filter((point) => (point.need === "?" ? "D3" : point.need) <= need && point.kept[axis] !== undefined) : [];
    const width = Math.max(320, holder.clientWidth || 900);
    const height = width < 600 ? 330 : 430;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "group");
    holder.replaceChildren(svg);
    legend.replaceChildren();
    title.textContent = group ? `${group.model} on ${group.task}, ${group.division} division, all budgets` : "";
    svg.setAttribute("aria-label", `${group ? group.metric : ""} against ${NAMES[axis]}`);
    if (!points.length) { element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, "Nothing was measured on this axis."); return; }
    const dense = group.dense;
    const values = points.flatMap((point) => [point.mean - (point.std ?? 0), point.mean + (point.std ?? 0)]).concat(dense === null ? [] : [dense]);
    const pad = (list, least) => { const [a, b] = [Math.min(...list), Math.max(...list)]; const room = Math.max((b - a) * 0.06, least); return [a - room, b + room]; };
    const [bottom, top] = pad(values, 0.002);
    const [low, high] = pad(points.map((point) => 100 * point.kept[axis]), 1);
    const edge = { left: 58, right: 14, top: 12, bottom: 44 };
    const x = (value) => edge.left + ((value - low) / (high - low)) * (width - edge.left - edge.right);
    const y = (value) => height - edge.bottom - ((value - bottom) / (top - bottom)) * (height - edge.top - edge.bottom);
    const across = ticks(low, high, width < 600 ? 5 : 9);
    for (const at of across.found) {
      element("line", { class: "grid", x1: x(at), x2: x(at), y1: edge.top, y2: height - edge.bottom }, svg);
      element("text", { x: x(at), y: height - edge.bottom + 17, "text-anchor": "middle" }, svg, `${at.toFixed(across.digits)}%`);
    }
    const up = ticks(bottom, top, 6);
    for (const at of up.found) {
      element("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(at), y2: y(at) }, svg);
      element("text", { x: edge.left - 7, y: y(at) + 4, "text-anchor": "end" }, svg, at.toFixed(up.digits));
    }
    element("text", { x: (edge.left + width - edge.right) / 2, y: height - 8, "text-anchor": "middle" }, svg, `${NAMES[axis]} kept, % of the dense model's`);
    element("text", { x: 14, y: (height - edge.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(height - edge.bottom) / 2})` }, svg, group.metric);
    if (dense !== null) {
      element("line", { class: "dense", x1: edge.left, x2: width - edge.right, y1: y(dense), y2: y(dense) }, svg);
      element("text", { x: edge.left + 6, y: y(dense) - 5 }, svg, "dense");
    }
    const front = points.filter((point) => pareto(point, points, axis)).sort((a, b) => a.kept[axis] - b.kept[axis]);
    if (front.length) {
      const steps = front.map((point, index) => (index ? `H${x(100 * point.kept[axis])}V${y(point.mean)}` : `M${x(100 * point.kept[axis])} ${y(point.mean)}`)).join("");
      element("path", { class: "front", d: `${steps}H${width - edge.right}` }, svg);
    }
    for (const point of points) mark(svg, point, axis, x, y, width);
    const seen = [...new Map(points.map((point) => [point.label, point])).values()].sort((a, b) => a.label.localeCompare(b.label));
    seen.forEach(button);
    if (!seen.some((point) => point.label === chosen)) chosen = null;
    fade();
  }

  // The front of what is shown: with methods filtered out, others come to lie on it.
  function pareto(point, points, axis) {
    return !points.some((other) => other.kept[axis] <= point.kept[axis] && other.mean >= point.mean && (other.kept[axis] < point.kept[axis] || other.mean > point.mean));
  }

  function mark(svg, point, axis, x, y, width) {
    const [left, height] = [x(100 * point.kept[axis]), y(point.mean)];
    const group = element("g", { class: "point", tabindex: "0", role: "img", "aria-label": lines(point, axis).join(", "), "data-label": point.label }, svg);
    if (point.std) {
      const [above, below] = [y(point.mean + point.std), y(point.mean - point.std)];
      element("path", { d: `M${left} ${above}V${below}M${left - 3} ${above}h6M${left - 3} ${below}h6`, stroke: point.colour, fill: "none" }, group);
    }
    element("path", { class: "mark", d: shape(point.marker, left, height, 5), stroke: point.colour, "stroke-width": 1.5, fill: point.state === "ranked" ? point.colour : "var(--card)" }, group);
    element("circle", { cx: left, cy: height, r: 12, fill: "transparent" }, group);
    const open = () => hint(point, axis, left, height, svg.clientWidth / width);
    const close = () => { tip.hidden = true; };
    group.addEventListener("mouseenter", open);
    group.addEventListener("focus", open);
    group.addEventListener("mouseleave", close);
    group.addEventListener("blur", close);
    group.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  }

  function button(point) {
    const item = document.createElement("li");
    const made = document.createElement("button");
    made.type = "button";
    made.setAttribute("aria-pressed", "false");
    const icon = element("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" });
    icon.style.width = "14px";
    element("path", { d: shape(point.marker, 7, 7, 4.5), fill: point.colour }, icon);
    made.append(icon, point.label);
    made.dataset.label = point.label;
    made.addEventListener("click", () => { chosen = chosen === point.label ? null : point.label; fade(); });
    item.append(made);
    legend.append(item);
  }

  function fade() {
    box.querySelectorAll(".point").forEach((point) => point.classList.toggle("faded", chosen !== null && point.dataset.label !== chosen));
    legend.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.label === chosen)));
  }

  box.hidden = false;
  box.querySelectorAll("input[name=axis]").forEach((input) => input.addEventListener("change", draw));
  document.addEventListener("filtered", draw);
  let width = 0;
  window.addEventListener("resize", () => { if (holder.clientWidth !== width) { width = holder.clientWidth; draw(); } });
})();
