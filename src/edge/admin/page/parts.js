// What the page is put together from. Nothing is written as HTML; every text goes in as text. A part that is there stays
// and only changes: focus and selection with it.

import { number } from "./words.js";

export const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** Makes `list` have one child for each item, in this order, and keeps those that it has: focus stays where it is. */
export function keyed(list, items, key, create, update) {
  const had = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let at = list.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = had.get(name);
    had.delete(name);
    if (!child) {
      child = create();
      child.dataset.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else list.insertBefore(child, at);
    update(child, item);
  }
  for (const gone of had.values()) gone.remove();
}

export function make(tag, name) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  return element;
}

export function row(cells) {
  const tr = make("tr", "is-new");
  for (let i = 0; i < cells; i++) tr.append(make("td", i === cells - 1 ? "right" : ""));
  return tr;
}

export const draw = (name, attributes) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

export function symbol(name) {
  const svg = draw("svg", { "aria-hidden": "true" });
  svg.append(draw("use", { href: `#i-${name}` }));
  return svg;
}

export const icon = (svg, name) => svg.firstElementChild.setAttribute("href", `#i-${name}`);
export const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

export function mark(element, kind, text) {
  element.dataset.state = kind;
  icon(element.querySelector("svg"), kind);
  write(element.querySelector("span"), text);
}

/** Who calls whom, with the direction as an arrow and a word for who does not see it. */
export function pair(cell, { direction, from, to }) {
  let box = cell.querySelector(".pair");
  if (!box) {
    box = make("span", "pair");
    const arrow = symbol(direction);
    arrow.removeAttribute("aria-hidden");
    arrow.setAttribute("role", "img");
    arrow.setAttribute("aria-label", direction === "in" ? "Inbound" : "Outbound");
    box.append(arrow, make("b"), make("span", "to"));
    cell.prepend(box);
  }
  write(box.querySelector("b"), from || "unknown");
  write(box.querySelector(".to"), `to ${to || "unknown"}`);
}

export function first(cell, text) {
  if (!cell.firstElementChild) cell.append(make("span"));
  write(cell.firstElementChild, text);
}

export function second(cell, text) {
  let small = cell.querySelector("small");
  if (!small && text) cell.append((small = make("small")));
  if (small) { write(small, text); small.hidden = !text; }
}

export function chip(cell, word) {
  let span = cell.querySelector(".chip");
  if (!span) cell.append((span = make("span", "chip")));
  span.dataset.call = word;
  write(span, { ringing: "Ringing", dialling: "Dialling", talking: "Talking", mailbox: "At the mailbox" }[word]);
}

export function toggle(name, empty) {
  $(`${name}-empty`).hidden = !empty;
  $(name).parentElement.classList.toggle("is-empty", empty);
}

export function more(element, many, text) {
  element.hidden = many <= 0;
  write(element, `And ${number(Math.max(many, 0))} ${text}.`);
}
