// The status page: reads snapshots as they come (see src/edge/status.rs for their shape) and shows them.

import { $, chip, first, icon, keyed, make, mark, more, pair, row, second, symbol, toggle, write } from "./parts.js";
import { plot, roundCount, roundSeconds } from "./plot.js";
import { ago, bytes, clock, count, moment, number, sentence, span, stopwatch, times, told } from "./words.js";

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

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
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
  fleet(all, now);
  calls(all, now);
  plots(now);
  dead(all, now);
  delivered(all, now);
  const button = $("reveal");
  button.setAttribute("aria-pressed", String(!all.masked));
  write(button.querySelector("span"), all.masked ? "Show numbers" : "Hide numbers");
  write($("about"), `Version ${all.version}, running since ${moment(Date.parse(all.started), now)}`);
}

/** What waits and what is dead, here and in the shared outbox if there is one. */
function totals({ queue, outbox }) {
  const there = outbox ? outbox.fleet.zammads : [];
  const sum = (key) => there.reduce((all, one) => all + one[key], 0);
  const ages = [queue.oldest_age_s, ...there.map((one) => one.oldest_age_s)].filter((age) => age !== null);
  return { waiting: queue.waiting + sum("waiting"), dead: queue.dead + sum("dead"), oldest_age_s: ages.length ? Math.max(...ages) : null, there: sum("waiting") };
}

const oldest = (age) => (age === null ? "nothing waits" : age === 0 ? "the oldest just came" : `the oldest for ${span(age * 1000)}`);

/** Why the outbox cannot be reached, if it cannot. */
const outboxAway = ({ outbox }) => (outbox ? [outbox.reason, ...outbox.shares.map((one) => one.reason), outbox.fleet.reason].find(Boolean)?.replace(/^the outbox is away: /, "") : null);

function headline(all) {
  const { queue: own, switches, zammads, loops, outbox } = all;
  const queue = { ...own, ...totals(all) };
  const silent = outbox?.fleet.nodes.find((one) => one.state === "silent");
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
  else if (outboxAway(all)) said = ["warn", "The outbox is away; calls are kept", `${own.waiting ? count(own.waiting, "event waits", "events wait") : "What happens waits"} at this node and goes on when it is back. Nothing is told meanwhile.`];
  else if (misconfigured) said = ["bad", `Zammad${several(zammads, misconfigured)} needs you`, `It takes nothing until the reason below is mended. ${count(queue.waiting, "event waits", "events wait")} meanwhile; nothing is lost.`];
  else if (away) said = ["warn", `Zammad${several(zammads, away)} is away; calls are kept`, `${count(queue.waiting, "event waits", "events wait")} and will be told in order when it is back.`];
  else if (silent) said = ["warn", `Node ${silent.node} is silent`, "The others go on with what it had. What only it listened to is not heard."];
  else if (paused) said = ["warn", `Posting to Zammad${several(zammads, paused)} is paused`, outbox ? "An operator stopped it at this node; the others go on. freeswitch-zammad resume takes it up again here." : "An operator stopped it. freeswitch-zammad resume goes on."];
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
  const total = totals(all);
  write($("waiting"), number(total.waiting));
  const where = all.outbox && total.waiting ? `${number(queue.waiting)} at this node, ${number(total.there)} in the outbox` : null;
  write($("queue-detail"), [oldest(total.oldest_age_s), where, queue.disk_bytes ? `${bytes(queue.disk_bytes)} on disk` : null].filter(Boolean).join(" · "));
  const faults = [
    queue.disk_refuses ? ["bad", "The disk refuses", queue.disk_refuses] : null,
    queue.taking_in ? ["warn", "A damaged store is taken in", `It was set aside: ${queue.taking_in.directory}. ${number(queue.taking_in.left)} of its ${count(queue.taking_in.rows, "row")} are still to come.`] : null,
    figures.events_dropped ? ["bad", `${count(figures.events_dropped, "event is", "events are")} lost`, "There was no room for them."] : null,
  ].filter(Boolean);
  keyed($("queue-faults"), faults, (one) => one[1], makePeer, (row, [kind, word, why]) => peer(row, kind, word, [], why));
}

/** The nodes that share an outbox, and what is in it. */
function fleet({ outbox }, now) {
  $("fleet-card").hidden = !outbox;
  if (!outbox) return;
  const { nodes, zammads, figures_age_s: age, same_name: twin } = outbox.fleet;
  write($("fleet-count"), age === null ? "not looked at yet" : age > 15 ? `as it was ${span(age * 1000)} ago` : "");
  keyed($("fleet-zammads"), zammads, (one) => one.zammad, makePeer, (row, one) => {
    const hands = one.hands.map((hand) => `${hand.node} has ${count(hand.calls, "call")}`);
    const kept = one.delivered_kept === null ? null : `${number(one.delivered_kept)} delivered kept`;
    const kind = one.dead || one.oldest_age_s > 60 ? "warn" : "good";
    const word = one.dead ? `${number(one.waiting)} waiting, ${count(one.dead, "dead letter")}` : `${number(one.waiting)} waiting`;
    peer(row, kind, named(zammads, { name: one.zammad }, word), [oldest(one.oldest_age_s), ...hands, kept], "");
  });
  keyed($("fleet-nodes"), nodes, (one) => one.node, makePeer, (row, one) => {
    const since = moment(one.seen_ms, now);
    const deaf = (one.switches ?? []).filter((it) => !it.listening).map((it) => `no link to switch ${it.name}: ${it.reason}`);
    const posts = (one.zammads ?? []).flatMap((it) => [
      it.paused ? `posting to ${it.name} is paused here` : null,
      it.link === "away" || it.link === "misconfigured" ? `Zammad ${it.name}: ${it.reason}` : null,
    ]);
    const troubles = [...deaf, ...posts, one.disk_refuses ? "its disk takes no events" : null].filter(Boolean);
    const words = { up: [deaf.length || one.disk_refuses ? "bad" : troubles.length ? "warn" : "good", "up"], silent: ["bad", `silent since ${since}`], stopped: ["idle", `stopped since ${since}`] };
    const [kind, word] = words[one.state];
    const up = one.state === "up";
    const facts = [one.this ? "this node" : null, one.version ? `version ${one.version}` : null, up ? `${count(one.calls, "call")} going on` : null, up && one.to_ship ? `${count(one.to_ship, "event")} to bring in` : null];
    peer(row, kind, `${one.node}: ${word}`, facts, up ? troubles.join("; ") : "");
  });
  const away = outboxAway({ outbox });
  const faults = [
    away ? ["warn", "The outbox is away", away] : null,
    twin ? ["warn", `Another node is called ${outbox.node} too`, "Give each its own name: node under [outbox]."] : null,
  ].filter(Boolean);
  keyed($("fleet-faults"), faults, (one) => one[1], makePeer, (row, [kind, word, why]) => peer(row, kind, word, [], why));
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
  keyed($("delivered"), list, (event) => event.key ?? event.seq, () => row(4), (tr, event) => {
    const [when, what, call, took] = tr.children;
    write(when, moment(event.settled_ms, now));
    first(what, told(event));
    second(what, [event.note, all.zammads.length > 1 ? event.zammad : null, event.node ? `told by ${event.node}` : null].filter(Boolean).join(" · "));
    pair(call, event);
    write(took, span(event.settled_ms - event.happened_ms));
  });
}

function dead(all, now) {
  const list = all.dead_letters;
  const total = totals(all).dead;
  const inside = $("dead-card").contains(document.activeElement);
  write($("dead-count"), total ? String(total) : "");
  $("dead-empty").hidden = total > 0;
  const button = $("replay-all");
  button.hidden = total === 0;
  write(button, total === 1 ? "Put it back …" : `Put all ${total} back …`);
  keyed($("dead"), list, (event) => event.key ?? event.seq, makeLetter, (row, event) => {
    write(row.querySelector("b"), told(event));
    pair(row.querySelector(".who"), event);
    write(row.querySelector("small"), `refused ${moment(event.settled_ms, now)}`);
    write(row.querySelector(".story"), event.note);
    const one = row.querySelector("button");
    one.hidden = total < 2;
    one.setAttribute("aria-label", `Put back: ${told(event)}, ${event.from} to ${event.to}`);
    one.onclick = () => replay(event.key ? { keys: [event.key] } : { seqs: [event.seq] }, 1);
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

let toasted;
function say(text) {
  write($("toast"), text);
  $("toast").hidden = false;
  clearTimeout(toasted);
  toasted = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

/* ---- The plots ---- */

function plots(now) {
  const samples = [...state.samples.values()].sort((a, b) => a[0] - b[0]);
  const first = samples.length ? samples[0][0] : now;
  const from = Math.min(first, now - 5 * 60000);
  const queue = totals(state.last);
  const over = (id, points, last, how) => write($(`plot-${id}-said`), plot($(`plot-${id}`), points, from, now, last, how));
  over("waiting", samples.map(([at, waiting]) => [at, waiting]), queue.waiting, { text: number, round: roundCount, most: "most" });
  over("oldest", samples.map(([at, , oldest]) => [at, oldest]), queue.oldest_age_s ?? 0, { text: (s) => (s ? span(s * 1000) : "0 s"), round: roundSeconds, most: "longest" });
}

/* ---- Begin ---- */

$("reveal").onclick = () => {
  if (!state.session) return $("how").showModal();
  state.reveal = !state.reveal;
  again();
};
$("replay-all").onclick = () => replay({ all: true }, totals(state.last).dead);
$("how-close").onclick = () => $("how").close();
for (const name of ["waiting", "oldest"]) {
  const svg = $(`plot-${name}`);
  svg.onpointermove = (event) => { svg.pointed = event.offsetX; if (state.last) plots(state.last.now_ms); };
  svg.onpointerleave = () => { svg.pointed = undefined; if (state.last) plots(state.last.now_ms); };
}
addEventListener("hashchange", redeem);
addEventListener("resize", () => { if (state.last) plots(state.last.now_ms); });
redeem().then(listen);
