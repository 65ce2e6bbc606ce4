// A figure over time, drawn into an SVG that is there. Knows nothing of the daemon.

import { draw } from "./parts.js";
import { clock } from "./words.js";

/**
 * Draws `points` ([moment in ms, value], in order) and what it is now, `last`, between two moments, and tells it in words:
 * what is under the pointer (`svg.pointed`, in px), else the last and the highest.
 */
export function plot(svg, points, from, to, last, { text, round, most }) {
  const width = svg.clientWidth || 480;
  const height = svg.clientHeight || 176;
  const [left, right, top, bottom] = [2, 8, 18, 22];
  const max = round(Math.max(1, last, ...points.map((p) => p[1])));
  const x = (at) => left + ((Math.min(at, to) - from) / (to - from)) * (width - left - right);
  const y = (value) => height - bottom - (value / max) * (height - top - bottom);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [];
  for (const value of [0, max / 2, max]) {
    parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    if (value > 0 && Number.isInteger(value)) parts.push(label(text(value), left, y(value) - 5, "start"));
  }
  const every = [60, 120, 300, 600, 1200, 1800].map((s) => s * 1000).find((ms) => (to - from) / ms <= Math.max(2, width / 110)) ?? 3600000;
  const zone = new Date(to).getTimezoneOffset() * 60000;
  for (let at = Math.ceil((from - zone) / every) * every + zone; at < to; at += every) {
    if (x(at) > 18 && x(at) < width - 26) parts.push(label(clock(new Date(at), false), x(at), height - 5, "middle"));
  }
  const all = [...points.filter((p) => p[0] < to), [to, last]];
  const trace = all.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  parts.push(draw("path", { class: "area", d: `${trace}L${x(to)} ${y(0)}L${x(all[0][0]).toFixed(1)} ${y(0)}Z` }));
  parts.push(draw("path", { class: "trace", d: trace }), draw("circle", { class: "now", cx: x(to), cy: y(last), r: 4.5 }));
  const at = svg.pointed;
  let read;
  if (at !== undefined && all.length) {
    const moment = from + ((at - left) / (width - left - right)) * (to - from);
    const near = all.reduce((a, b) => (Math.abs(b[0] - moment) < Math.abs(a[0] - moment) ? b : a));
    parts.push(draw("line", { class: "cursor", x1: x(near[0]), x2: x(near[0]), y1: top, y2: height - bottom }));
    parts.push(draw("circle", { class: "now", cx: x(near[0]), cy: y(near[1]), r: 4.5 }));
    read = `${text(near[1])} at ${clock(new Date(near[0]))}`;
  }
  svg.replaceChildren(...parts);
  const peak = all.reduce((a, b) => (b[1] > a[1] ? b : a));
  const peaked = peak[1] > last ? `, ${most} ${text(peak[1])} at ${clock(new Date(peak[0]), false)}` : "";
  return read ?? `now ${text(last)}${peaked}`;
}

/** The next round number; both it and its half are worth a line. */
export function roundCount(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10, 20].map((n) => n * power).find((n) => n >= value && n >= 2);
}

export function roundSeconds(value) {
  const steps = [2, 4, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 57600, 86400];
  return steps.find((step) => step >= value) ?? 172800 * Math.ceil(value / 172800);
}

const label = (text, x, y, anchor) => {
  const element = draw("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
};
