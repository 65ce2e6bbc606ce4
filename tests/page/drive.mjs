// Looks at the status page as a person would. tests/page_in_chromium.rs starts this, and does what it asks for:
// a line "want WORD" on standard output is answered by a line on standard input once it is done.
// SHOTS: where screenshots go, if anywhere. PAGE_FILES: a folder like src/edge/admin/page, used instead (to try).
import { readFileSync, readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const { SHOTS, PAGE_FILES } = process.env;
const NUMBERS = /\d{6,}/;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function want(word) {
  process.stdout.write(`want ${word}\n`);
  const { value, done } = await answers.next();
  assert(!done, "nobody answers");
  return value;
}

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const faults = [];

async function open(options, path = url) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  // What a script could not do, or should not have: except that a connection broke, which is said below.
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type()) && !/ERR_(CONNECTION|INCOMPLETE|EMPTY|NETWORK)|status of 401/.test(line.text())) faults.push(line.text());
  });
  page.on("pageerror", (why) => faults.push(String(why)));
  page.on("request", (request) => { if (new URL(request.url()).host !== new URL(path).host) faults.push(`asks elsewhere: ${request.url()}`); });
  if (PAGE_FILES) {
    const kinds = { css: "text/css", html: "text/html", js: "text/javascript", svg: "image/svg+xml" };
    for (const file of readdirSync(PAGE_FILES)) {
      const at = file === "index.html" ? /\/(#.*)?$/ : `**/${file}`;
      const contentType = `${kinds[file.split(".").pop()]}; charset=utf-8`;
      await page.route(at, (route) => route.fulfill({ body: readFileSync(`${PAGE_FILES}/${file}`), contentType }));
    }
  }
  await page.goto(path);
  return page;
}

const text = (page, selector) => page.locator(selector).innerText();
const says = (page, selector, words) =>
  page.waitForFunction(([s, w]) => { const e = document.querySelector(s); return e?.checkVisibility() && new RegExp(w).test(e.innerText); }, [selector, words.source], { timeout: 15000 })
    .catch(async () => assert.fail(`${selector} never says ${words}: ${await text(page, selector)}`));

async function shot(page, name) {
  if (!SHOTS) return;
  // As it is once nothing moves any more; a dialog as it lies over the page.
  await page.waitForTimeout(800);
  const dialog = await page.evaluate(() => { if (!document.querySelector("dialog[open]")) scrollTo(0, 0); return Boolean(document.querySelector("dialog[open]")); });
  await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: !dialog });
}

/** Nothing is wider than the screen, and what can be touched is large enough. */
async function fits(page) {
  // A phone would rather show everything smaller: its own width would then be the wrong measure.
  const wide = (await page.evaluate(() => document.documentElement.scrollWidth)) - page.viewportSize().width;
  assert(wide <= 0, `${wide} px too wide`);
  const small = await page.evaluate(() => [...document.querySelectorAll("button")].filter((b) => b.offsetParent && b.offsetHeight < 36).map((b) => b.textContent));
  assert.deepEqual(small, []);
}

/** Text against what lies behind it, as WCAG counts it: 4.5, or 3 for large text. */
async function contrasts(page) {
  const faint = await page.evaluate(() => {
    const parse = (c) => (c.match(/[\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
    const found = [];
    for (const e of document.querySelectorAll("body *")) {
      const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      const style = getComputedStyle(e);
      if (!own || !e.checkVisibility() || style.clipPath !== "none" || e.closest(".skip, svg")) continue;
      const [a, b] = [light(parse(style.color)), light(behind(e))].sort((x, y) => y - x);
      const large = parseFloat(style.fontSize) >= 24;
      if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) found.push(`${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 30)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
    }
    return found;
  });
  assert.deepEqual(faint, []);
}

/** What a screen reader would call each thing that can be used. */
async function named(page) {
  const nameless = await page.evaluate(() => [...document.querySelectorAll("button, a, [role=img]")].filter((e) => e.checkVisibility()).filter((e) => {
    const by = (e.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
    return !(e.getAttribute("aria-label") || by || e.textContent.trim());
  }).map((e) => e.outerHTML));
  assert.deepEqual(nameless, []);
}

// Everybody sees how things are, and no number.
const page = await open();
await says(page, "#link", /live/);
await says(page, "#headline h1", /Listening for calls/);
for (const empty of ["calls", "dead", "delivered"]) assert(await page.locator(`#${empty}-empty`).isVisible());
await shot(page, "0-nothing-yet");
await want("calls");
await says(page, "#calls", /Talking/);
await says(page, "#calls", /Ringing/);
assert.match(await text(page, "#calls"), /••••78/);
assert.doesNotMatch(await text(page, "body"), NUMBERS);
await says(page, "#delivered", /Rings/);
await says(page, "#headline h1", /Calls reach Zammad/);

// Without a link, what would need one says how to get it.
await page.getByRole("button", { name: "Show numbers" }).click();
await says(page, "#how", /freeswitch-zammad page/);
await shot(page, "1-how");
await page.keyboard.press("Escape");
assert.doesNotMatch(await text(page, "body"), NUMBERS);

// An outage is said with its reason; the queue grows; live.
await want("outage");
await says(page, "#headline h1", /Zammad is away/);
await says(page, "#zammads .reason", /502/);
await says(page, "#waiting", /^[1-9]/);
await says(page, "#plot-waiting-said", /now [1-9]/);
await contrasts(page);
await named(page);
await shot(page, "2-outage-light");
const dark = await open({ colorScheme: "dark" });
await says(dark, "#headline h1", /Zammad is away/);
await contrasts(dark);
await shot(dark, "3-outage-dark");
const papers = await Promise.all([page, dark].map((p) => p.evaluate(() => getComputedStyle(document.body).backgroundColor)));
assert.notEqual(papers[0], papers[1]);
await dark.context().close();
const phone = await open({ viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await says(phone, "#headline h1", /Zammad is away/);
await says(phone, "#calls", /Talking/);
await fits(phone);
await shot(phone, "4-outage-phone");

// Back, it refuses; what it refuses is kept with the reason.
await want("refuse");
await says(page, "#dead-count", /^[1-9]/);
await says(page, "#dead", /Over: /);
await says(page, "#headline h1", /refused \d+ events? for good/);
await says(phone, "#dead", /Over: /);
assert.doesNotMatch(await text(page, "body"), NUMBERS);
await fits(phone);
await shot(phone, "5-dead-phone");
await page.locator("#replay-all").click();
await says(page, "#how", /freeswitch-zammad page/);
await page.getByRole("button", { name: "Close" }).click();

// With a link: numbers, and orders. By keyboard alone.
const link = await want("link");
const mine = await open({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce" }, link);
await says(mine, "#link", /live/);
await says(mine, "#toast", /for ten hours/);
assert.equal(new URL(mine.url()).hash, "");
assert.doesNotMatch(await text(mine, "body"), NUMBERS);
const focused = () => mine.evaluate(() => document.activeElement.id || document.activeElement.textContent);
async function tabTo(id) {
  for (let steps = 0; steps < 40; steps++) {
    await mine.keyboard.press("Tab");
    if ((await focused()) === id) {
      const outline = await mine.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, "none", `${id}: its focus cannot be seen`);
      return;
    }
  }
  assert.fail(`${id} cannot be reached by keyboard`);
}
await mine.keyboard.press("Tab");
assert.equal(await focused(), "To the content");
await tabTo("reveal");
await mine.keyboard.press("Enter");
await says(mine, "#calls", /4915112345678/);
assert.equal(await mine.getAttribute("#reveal", "aria-pressed"), "true");
assert.equal(await focused(), "reveal");
await says(mine, "#dead", /4915112345678/);
await contrasts(mine);
await shot(mine, "6-revealed");
await mine.keyboard.press("Enter");
await says(mine, "#calls", /••••78/);
assert.doesNotMatch(await text(mine, "body"), NUMBERS);

await want("mended");
await tabTo("replay-all");
await mine.keyboard.press("Enter");
await says(mine, "#confirm", /Put \d+ events back into the queue\?/);
await shot(mine, "7-confirm");
assert.equal(await focused(), "confirm-no");
await mine.keyboard.press("Escape");
await mine.waitForFunction(() => !document.querySelector("#confirm").open);
assert.equal(await focused(), "replay-all");
// Two seconds later they are still there: Escape orders nothing.
const kept = await text(mine, "#dead-count");
for (let seconds = 0; seconds < 2; seconds++) {
  const shown = await mine.locator("#calls .right").first().innerText();
  await mine.waitForFunction((before) => document.querySelector("#calls .right").innerText !== before, shown);
}
assert.equal(await text(mine, "#dead-count"), kept);
await mine.keyboard.press("Enter");
await says(mine, "#confirm", /Put \d+ events back/);
await mine.keyboard.press("Tab");
assert.equal(await focused(), "confirm-yes");
await mine.keyboard.press("Enter");
await says(mine, "#toast", /on the way again/);
await mine.waitForFunction(() => !document.querySelector("#dead-empty").hidden);
await says(mine, "#delivered", /Over: /);
await says(mine, "#headline h1", /Calls reach Zammad/);
assert.equal(await focused(), "dead-title", "the focus is where the events were");
await want("replayed");

// Calls end, and are gone.
await want("end");
await page.locator("#calls-empty").waitFor({ state: "visible", timeout: 15000 });
assert.match(await text(page, "#calls-empty"), /No call at the moment/);
await shot(page, "8-well");

// The daemon goes away, and comes back without the session; the page says both.
await want("restart-down");
await says(mine, "#lost", /No connection to the daemon since/);
await says(mine, "#link", /not connected/);
await shot(mine, "9-lost");
await want("restart-up");
await says(mine, "#link", /live/);
assert(await mine.locator("#lost").isHidden());
await says(mine, "#toast", /session is over/);

// With a shared outbox: the nodes, what waits for any of them, and what was refused, whichever of them it was.
assert(await mine.locator("#fleet-card").isHidden(), "there is no outbox");
const shared = await want("fleet");
if (shared !== "none") {
  const one = await open({}, shared);
  await says(one, "#fleet-nodes", /pbx1: up/);
  await says(one, "#fleet-nodes", /pbx2: silent since/);
  await says(one, "#fleet-nodes", /pbx3: stopped since/);
  await says(one, "#fleet-nodes", /No link to switch main: refused/);
  await says(one, "#fleet-zammads", /2 dead letters/);
  await says(one, "#headline h1", /Node pbx2 is silent/);
  await says(one, "#dead-count", /^2$/);
  await says(one, "#dead", /Over: /);
  await says(one, "#delivered", /told by pbx1/);
  assert.doesNotMatch(await text(one, "#delivered"), /in the outbox/);
  assert.doesNotMatch(await text(one, "body"), NUMBERS);
  await contrasts(one);
  await named(one);
  await shot(one, "10-fleet-light");
  const night = await open({ colorScheme: "dark" }, shared);
  await says(night, "#fleet-nodes", /pbx2: silent since/);
  await contrasts(night);
  await shot(night, "11-fleet-dark");
  const small = await open({ viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }, shared);
  await says(small, "#fleet-nodes", /pbx2: silent since/);
  await fits(small);
  await shot(small, "12-fleet-phone");

  // Put back by keyboard alone: one, then the others.
  const ours = await open({ reducedMotion: "reduce" }, await want("fleet-link"));
  await says(ours, "#toast", /for ten hours/);
  await says(ours, "#dead-count", /^2$/);
  for (const left of [/^1$/, null]) {
    await ours.locator(left ? "#dead button" : "#replay-all").first().focus();
    await ours.keyboard.press("Enter");
    await says(ours, "#confirm", /Put this event back into the queue\?/);
    await ours.keyboard.press("Tab");
    await ours.keyboard.press("Enter");
    await says(ours, "#toast", /1 event is on the way again/);
    if (left) await says(ours, "#dead-count", left);
    else await ours.locator("#dead-empty").waitFor({ state: "visible", timeout: 15000 });
  }
  await want("fleet-told");

  // The outbox goes away; what is known of it is said to be old.
  await want("fleet-away");
  await says(one, "#headline h1", /The outbox is away/);
  await says(one, "#fleet-faults", /The outbox is away/);
  await shot(one, "13-fleet-away");
}

// Without JavaScript it says where to look.
const plain = await open({ javaScriptEnabled: false });
assert.match(await text(plain, "noscript"), /freeswitch-zammad status/);

assert.deepEqual(faults, [], "the console is clean");
await browser.close();
process.stdout.write("seen\n");
process.exit(0);
