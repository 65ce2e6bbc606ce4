// The status page: reads snapshots as they come (see src/edge/status.rs for their shape) and shows them.
// Nothing is written as HTML; every text goes in as text.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SESSION = "session";
/** No word for so long means that the connection is lost: a snapshot comes each second. */
const SILENCE_MS = 5000;
const RETRY_MS_MAX = 10000;

const state = {
  session: sessionStorage.getItem(SESSION),
  reveal: false,
  last: null,
  lostSince: null,
  samples: new Map(),
  step: 10000,
  stream: null,
};

/* ---- The connection ---- */

async function listen() {
  for (let failures = 0; ; failures++) {
    const stream = new AbortController();
    state.stream = stream;
    let heard = false;
    try {
      await read(stream, () => { heard = true; });
    } catch (why) {
      if (why.name !== "AbortError") { /* the connection broke: said below */ }
    }
    if (heard) failures = 0;
    // Asked for anew on purpose: at once, and nothing is lost.
    if (stream.signal.reason === "anew") continue;
    lost();
    await pause(Math.min(1000 * 2 ** failures, RETRY_MS_MAX));
  }
}

async function read(stream, heard) {
  let silence = setTimeout(() => stream.abort("silence"), SILENCE_MS);
  try {
    const headers = state.session ? { authorization: `Bearer ${state.session}` } : {};
    const reply = await fetch(`/api/live${state.reveal ? "?reveal=1" : ""}`, { headers, signal: stream.signal, cache: "no-store" });
    if (reply.status === 401) {
      forget("The session is over. Numbers are hidden again.");
      stream.abort("anew");
      return;
    }
    if (!reply.ok) return;
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        clearTimeout(silence);
        silence = setTimeout(() => stream.abort("silence"), SILENCE_MS);
        const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) {
          heard();
          found();
          show(JSON.parse(data));
        }
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

function again() {
  if (state.stream) state.stream.abort("anew");
}

function lost() {
  state.lostSince ??= new Date();
  const text = `No connection to the daemon since ${clock(state.lostSince)}. ${state.last ? "What is shown is from before. " : ""}Trying again …`;
  write($("lost"), text);
  $("lost").hidden = false;
  document.body.classList.add("is-lost");
  mark($("link"), "bad", "not connected");
  document.title = "✕ No connection · freeswitch-zammad";
}

function found() {
  if (state.lostSince) {
    state.lostSince = null;
    $("lost").hidden = true;
    document.body.classList.remove("is-lost");
  }
  mark($("link"), "good", "live");
}

/* ---- The session ---- */

async function redeem() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  history.replaceState(null, "", location.pathname);
  try {
    const reply = await post("/api/session", { key });
    state.session = reply.session;
    sessionStorage.setItem(SESSION, reply.session);
    say("You may show numbers and put events back, in this tab, for ten hours.");
  } catch (why) {
    say(why.message);
  }
  again();
}

function forget(text) {
  state.session = null;
  state.reveal = false;
  sessionStorage.removeItem(SESSION);
  say(text);
}

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  if (state.session) headers.authorization = `Bearer ${state.session}`;
  const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await reply.json();
  if (!reply.ok) throw new Error(sentence(answer.error));
  return answer;
}

/* ---- What is shown ---- */

function show(all) {
  const isFirst = !state.last;
  state.last = all;
  document.body.classList.toggle("is-moving", !isFirst);
  const now = all.now_ms;
  for (const [at, waiting, oldest] of all.history.samples) state.samples.set(at, [at, waiting, oldest]);
  const from = now - 2 * 3600 * 1000;
  for (const at of state.samples.keys()) if (at < from) state.samples.delete(at);
  state.step = all.history.step_s * 1000;

  headline(all);
  road(all, now);
  calls(all, now);
  plots(now);
  dead(all, now);
  delivered(all, now);
  const button = $("reveal");
  button.setAttribute("aria-pressed", String(!all.masked));
  write(button.querySelector("span"), all.masked ? "Show numbers" : "Hide numbers");
  write($("about"), `Version ${all.version}, running since ${moment(Date.parse(all.started), now)}`);
}

function headline(all) {
  const { queue, switches, zammads, loops } = all;
  const several = (list, one) => (list.length > 1 ? ` ${one.name}` : "");
  const stuck = loops.find((loop) => loop.stuck);
  const deaf = switches.find((one) => !one.listening);
  const misconfigured = zammads.find((one) => one.link === "misconfigured");
  const away = zammads.find((one) => one.link === "away");
  const paused = zammads.find((one) => one.paused);
  const going = `${all.calls.going_on ? count(all.calls.going_on, "call") : "No call"} going on, ${queue.waiting ? count(queue.waiting, "event") : "nothing"} waiting`;
  let said;
  if (stuck) said = ["bad", "A part of the daemon is stuck", `${sentence(stuck.name)} has not moved for ${span(stuck.still_ms)}. Only a new start helps: systemctl restart freeswitch-zammad.`];
  else if (queue.disk_refuses) said = ["bad", "The disk takes no events", `${sentence(queue.disk_refuses)}. ${count(all.calls.events_unaccepted, "event is", "events are")} kept in memory until it does.`];
  else if (deaf) said = ["bad", `No link to the switch${several(switches, deaf)}`, "Its calls are not heard. What happens meanwhile is found out afterwards, as far as the switch still knows it."];
  else if (misconfigured) said = ["bad", `Zammad${several(zammads, misconfigured)} needs you`, `It takes nothing until the reason below is mended. ${count(queue.waiting, "event waits", "events wait")} meanwhile; nothing is lost.`];
  else if (away) said = ["warn", `Zammad${several(zammads, away)} is away; calls are kept`, `${count(queue.waiting, "event waits", "events wait")} and will be told in order when it is back.`];
  else if (paused) said = ["warn", `Posting to Zammad${several(zammads, paused)} is paused`, "An operator stopped it. freeswitch-zammad resume goes on."];
  else if (queue.dead > 0) said = ["warn", `Zammad refused ${count(queue.dead, "event")} for good`, "The reasons stand below. Once they are mended, the events can be put back."];
  else if (queue.oldest_age_s > 60) said = ["warn", "The queue is catching up", `${count(queue.waiting, "event waits", "events wait")}, the oldest for ${span(queue.oldest_age_s * 1000)}.`];
  else said = ["good", zammads.every((one) => one.link === "unasked") ? "Listening for calls" : "Calls reach Zammad", `${going}.`];
  const [kind, title, why] = said;
  const box = $("headline");
  box.dataset.state = kind;
  icon(box.querySelector("svg"), kind);
  write(box.querySelector("h1"), title);
  write(box.querySelector(".why"), why.replace(/([.?!])\.$/, "$1"));
  document.title = `${{ good: "", warn: "! ", bad: "✕ " }[kind]}${title} · freeswitch-zammad`;
}

function road(all, now) {
  keyed($("switches"), all.switches, (one) => one.name, makePeer, (row, one) => {
    const heard = one.last_event ? `last heard ${ago(Date.parse(one.last_event), now)}` : "nothing heard yet";
    const facts = [one.address, one.listening ? heard : null, one.losses ? `link lost ${times(one.losses)}` : null];
    peer(row, one.listening ? "good" : "bad", named(all.switches, one, one.listening ? "Heard" : `No link since ${moment(Date.parse(one.since), now)}`), facts, one.listening ? "" : one.reason);
  });
  keyed($("zammads"), all.zammads, (one) => one.name, makePeer, (row, one) => {
    const since = one.since ? ` since ${moment(Date.parse(one.since), now)}` : "";
    const words = { up: ["good", "Answers"], unasked: ["idle", "Not asked yet"], away: ["warn", `Away${since}`], misconfigured: ["bad", `Needs you${since}`] };
    let [kind, word] = words[one.link];
    if (one.paused) { kind = kind === "bad" ? kind : "warn"; word += ", paused"; }
    const last = one.last_delivery ? `last delivery ${ago(Date.parse(one.last_delivery), now)}` : "nothing delivered yet";
    const facts = [last, one.delivered ? `${number(one.delivered)} delivered` : null, one.repeated ? `${one.repeated} repeated` : null, one.ambiguous ? `${count(one.ambiguous, "hangup")} of unknown fate` : null];
    peer(row, kind, named(all.zammads, one, word), facts, one.reason);
  });
  const { queue, calls: figures } = all;
  write($("waiting"), number(queue.waiting));
  const age = queue.oldest_age_s;
  const oldest = age === null ? "nothing waits" : age === 0 ? "the oldest just came" : `the oldest for ${span(age * 1000)}`;
  write($("queue-detail"), [oldest, queue.disk_bytes ? `${bytes(queue.disk_bytes)} on disk` : null].filter(Boolean).join(" · "));
  const faults = [
    queue.disk_refuses ? ["bad", "The disk refuses", queue.disk_refuses] : null,
    figures.events_dropped ? ["bad", `${count(figures.events_dropped, "event is", "events are")} lost`, "There was no room for them."] : null,
  ].filter(Boolean);
  keyed($("queue-faults"), faults, (one) => one[1], makePeer, (row, [kind, word, why]) => peer(row, kind, word, [], why));
}

/** What tells one of several apart; the only one needs no name. */
const named = (list, one, word) => (list.length > 1 ? `${one.name}: ${word.toLowerCase()}` : word);

function makePeer() {
  const row = make("li", "peer");
  const head = make("b");
  head.append(symbol("idle"), make("span"));
  row.append(head, make("p", "about"), make("p", "reason"));
  return row;
}

function peer(row, kind, word, facts, reason) {
  row.dataset.state = kind;
  icon(row.querySelector("svg"), kind);
  write(row.querySelector("b span"), word);
  write(row.querySelector(".about"), facts.filter(Boolean).join(" · "));
  const why = row.querySelector(".reason");
  write(why, sentence(reason));
  why.hidden = !reason;
}

function calls(all, now) {
  const list = all.calls_now;
  write($("calls-count"), all.calls.going_on ? String(all.calls.going_on) : "");
  toggle("calls", list.length === 0);
  keyed($("calls"), list, (call) => call.id, () => row(4), (tr, call) => {
    const [who, what, by, since] = tr.children;
    pair(who, call);
    const extra = [call.queue, all.switches.length > 1 ? call.switch : null].filter(Boolean).join(" · ");
    second(who, extra);
    chip(what, call.state);
    write(by, call.answered_by ?? (call.state !== "talking" ? "–" : call.direction === "out" ? "the called side" : "somebody"));
    write(since, stopwatch(now - call.since_ms));
  });
  more($("calls-more"), all.calls.going_on - list.length, "more");
}

function delivered(all, now) {
  const list = all.delivered;
  toggle("delivered", list.length === 0);
  keyed($("delivered"), list, (event) => event.seq, () => row(4), (tr, event) => {
    const [when, what, call, took] = tr.children;
    write(when, moment(event.settled_ms, now));
    first(what, told(event));
    second(what, [event.note, all.zammads.length > 1 ? event.zammad : null].filter(Boolean).join(" · "));
    pair(call, event);
    write(took, span(event.settled_ms - event.happened_ms));
  });
}

function dead(all, now) {
  const list = all.dead_letters;
  const total = all.queue.dead;
  const inside = $("dead-card").contains(document.activeElement);
  write($("dead-count"), total ? String(total) : "");
  $("dead-empty").hidden = total > 0;
  const button = $("replay-all");
  button.hidden = total === 0;
  write(button, total === 1 ? "Put it back …" : `Put all ${total} back …`);
  keyed($("dead"), list, (event) => event.seq, makeLetter, (row, event) => {
    write(row.querySelector("b"), told(event));
    pair(row.querySelector(".who"), event);
    write(row.querySelector("small"), `refused ${moment(event.settled_ms, now)}`);
    write(row.querySelector(".story"), event.note);
    const one = row.querySelector("button");
    one.hidden = total < 2;
    one.setAttribute("aria-label", `Put back: ${told(event)}, ${event.from} to ${event.to}`);
    one.onclick = () => replay({ seqs: [event.seq] }, 1);
  });
  more($("dead-more"), total - list.length, "more; freeswitch-zammad queue list dead shows all");
  // What had the focus may be gone with its event.
  if (inside && (document.activeElement === document.body || !document.activeElement.checkVisibility())) $("dead-title").focus();
}

function makeLetter() {
  const item = make("li", "letter is-new");
  const text = make("div");
  text.append(make("b"), " ", make("small"), make("div", "who"));
  const button = make("button", "button");
  button.type = "button";
  write(button, "Put back …");
  const story = make("p", "story");
  item.append(text, button, story);
  return item;
}

/* ---- Orders ---- */

async function replay(which, many) {
  if (!state.session) return $("how").showModal();
  write($("confirm-title"), many === 1 ? "Put this event back into the queue?" : `Put ${many} events back into the queue?`);
  write($("confirm-text"), `${many === 1 ? "It is" : "They are"} posted to Zammad again. If the reason is not mended, ${many === 1 ? "it comes" : "they come"} back here.`);
  write($("confirm-yes"), many === 1 ? "Put it back" : `Put ${many} back`);
  if (!(await confirmed())) return;
  try {
    const { replayed } = await post("/api/replay", which);
    say(replayed === 0 ? "They were gone already." : `${count(replayed, "event is", "events are")} on the way again.`);
  } catch (why) {
    say(why.message);
  }
}

function confirmed() {
  const dialog = $("confirm");
  return new Promise((answer) => {
    $("confirm-yes").onclick = () => dialog.close("yes");
    $("confirm-no").onclick = () => dialog.close("no");
    dialog.onclose = () => answer(dialog.returnValue === "yes");
    dialog.returnValue = "no";
    dialog.showModal();
    // What does nothing is what a stray Enter finds.
    $("confirm-no").focus();
  });
}

/* ---- The plots ---- */

function plots(now) {
  const samples = [...state.samples.values()].sort((a, b) => a[0] - b[0]);
  const first = samples.length ? samples[0][0] : now;
  const from = Math.min(first, now - 5 * 60000);
  const queue = state.last.queue;
  plot("waiting", samples.map(([at, waiting]) => [at, waiting]), from, now, queue.waiting, { text: number, round: roundCount, most: "most" });
  plot("oldest", samples.map(([at, , oldest]) => [at, oldest]), from, now, queue.oldest_age_s ?? 0, { text: (s) => (s ? span(s * 1000) : "0 s"), round: roundSeconds, most: "longest" });
}

function plot(id, points, from, to, last, { text, round, most }) {
  const svg = $(`plot-${id}`);
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
  let read = "";
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
  write($(`plot-${id}-said`), read || `now ${text(last)}${peaked}`);
}

/** The next round number; both it and its half are worth a line. */
function roundCount(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10, 20].map((n) => n * power).find((n) => n >= value && n >= 2);
}

function roundSeconds(value) {
  const steps = [2, 4, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 57600, 86400];
  return steps.find((step) => step >= value) ?? 172800 * Math.ceil(value / 172800);
}

const draw = (name, attributes) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const label = (text, x, y, anchor) => {
  const element = draw("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
};

/* ---- Small things ---- */

/** Makes `list` have one child for each item, in this order, and keeps those that it has: focus stays where it is. */
function keyed(list, items, key, create, update) {
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

function make(tag, name) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  return element;
}

function row(cells) {
  const tr = make("tr", "is-new");
  for (let i = 0; i < cells; i++) tr.append(make("td", i === cells - 1 ? "right" : ""));
  return tr;
}

function symbol(name) {
  const svg = draw("svg", { "aria-hidden": "true" });
  svg.append(draw("use", { href: `#i-${name}` }));
  return svg;
}

const icon = (svg, name) => svg.firstElementChild.setAttribute("href", `#i-${name}`);
const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

function mark(element, kind, text) {
  element.dataset.state = kind;
  icon(element.querySelector("svg"), kind);
  write(element.querySelector("span"), text);
}

/** Who calls whom, with the direction as an arrow and a word for who does not see it. */
function pair(cell, { direction, from, to }) {
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

function first(cell, text) {
  if (!cell.firstElementChild) cell.append(make("span"));
  write(cell.firstElementChild, text);
}

function second(cell, text) {
  let small = cell.querySelector("small");
  if (!small && text) cell.append((small = make("small")));
  if (small) { write(small, text); small.hidden = !text; }
}

function chip(cell, word) {
  let span = cell.querySelector(".chip");
  if (!span) cell.append((span = make("span", "chip")));
  span.dataset.call = word;
  write(span, { ringing: "Ringing", dialling: "Dialling", talking: "Talking", mailbox: "At the mailbox" }[word]);
}

function toggle(name, empty) {
  $(`${name}-empty`).hidden = !empty;
  $(name).parentElement.classList.toggle("is-empty", empty);
}

function more(element, many, text) {
  element.hidden = many <= 0;
  write(element, `And ${number(Math.max(many, 0))} ${text}.`);
}

let toasted;
function say(text) {
  write($("toast"), text);
  $("toast").hidden = false;
  clearTimeout(toasted);
  toasted = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

/** What an event told Zammad, in words. */
function told({ event, direction, what }) {
  const causes = { normalClearing: "hung up", busy: "busy", cancel: "the caller gave up", noAnswer: "nobody answered", congestion: "could not be connected", notFound: "no such number", forwarded: "forwarded" };
  if (event === "newCall") return direction === "in" ? `Rings${what ? ` at ${what}` : ""}` : "Is dialled";
  if (event === "answer") return what ? `Answered by ${what}` : "Answered";
  return `Over: ${causes[what] ?? what}`;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const number = (n) => n.toLocaleString("en");
const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
const times = (n) => (n === 1 ? "once" : n === 2 ? "twice" : `${number(n)} times`);
const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const two = (n) => String(n).padStart(2, "0");
const clock = (date, seconds = true) => `${two(date.getHours())}:${two(date.getMinutes())}${seconds ? `:${two(date.getSeconds())}` : ""}`;
const ago = (at, now) => (now - at < 2000 ? "just now" : `${span(now - at)} ago`);
const bytes = (n) => (n < 1e6 ? `${Math.round(n / 1e3)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`);

/** A time of day; with the date if it was another day. */
function moment(at, now) {
  const date = new Date(at);
  const today = new Date(now).toDateString() === date.toDateString();
  return today ? clock(date) : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date, false)}`;
}

function span(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 0.05) return "at once";
  if (s < 0.95) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function stopwatch(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const rest = `${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return s < 3600 ? rest : `${Math.floor(s / 3600)}:${rest}`;
}

/* ---- Begin ---- */

$("reveal").onclick = () => {
  if (!state.session) return $("how").showModal();
  state.reveal = !state.reveal;
  again();
};
$("replay-all").onclick = () => replay({ all: true }, state.last.queue.dead);
$("how-close").onclick = () => $("how").close();
for (const name of ["waiting", "oldest"]) {
  const svg = $(`plot-${name}`);
  svg.onpointermove = (event) => { svg.pointed = event.offsetX; if (state.last) plots(state.last.now_ms); };
  svg.onpointerleave = () => { svg.pointed = undefined; if (state.last) plots(state.last.now_ms); };
}
addEventListener("hashchange", redeem);
addEventListener("resize", () => { if (state.last) plots(state.last.now_ms); });
redeem().then(listen);
