// What figures, times and events are called. Knows nothing of the page.

/** What an event told Zammad, in words. */
export function told({ event, direction, what }) {
  const causes = { normalClearing: "hung up", busy: "busy", cancel: "the caller gave up", noAnswer: "nobody answered", congestion: "could not be connected", notFound: "no such number", forwarded: "forwarded" };
  if (event === "newCall") return direction === "in" ? `Rings${what ? ` at ${what}` : ""}` : "Is dialled";
  if (event === "answer") return what ? `Answered by ${what}` : "Answered";
  return `Over: ${causes[what] ?? what}`;
}

export const number = (n) => n.toLocaleString("en");
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const times = (n) => (n === 1 ? "once" : n === 2 ? "twice" : `${number(n)} times`);
export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const two = (n) => String(n).padStart(2, "0");
export const clock = (date, seconds = true) => `${two(date.getHours())}:${two(date.getMinutes())}${seconds ? `:${two(date.getSeconds())}` : ""}`;
export const ago = (at, now) => (now - at < 2000 ? "just now" : `${span(now - at)} ago`);
export const bytes = (n) => (n < 1e6 ? `${Math.round(n / 1e3)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`);

/** A time of day; with the date if it was another day. */
export function moment(at, now) {
  const date = new Date(at);
  const today = new Date(now).toDateString() === date.toDateString();
  return today ? clock(date) : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date, false)}`;
}

export function span(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 0.05) return "at once";
  if (s < 0.95) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function stopwatch(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const rest = `${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return s < 3600 ? rest : `${Math.floor(s / 3600)}:${rest}`;
}
