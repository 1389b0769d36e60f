// The registry's page. What comes over the event stream is only a hint that something changed: what is shown is always what
// the lists say. Nothing of a mission is ever taken for markup: every text goes in as text.

const PAGE = 100;
/** Hints within this time, in ms, cost one look. */
const GATHER = 200;
/** Without any hint a page that is seen is looked after this often, in ms: a dispatch alone is no event, and nobody is to
 *  see what was true more than a second ago. */
const SWEEP = 750;
/** And one that is not seen this often, for the number of questions in its title. */
const HIDDEN_SWEEP = 15_000;
/** The longest pause, in ms, between two attempts to reach the registry. */
const SLOWEST = 15_000;

const $ = (id) => document.getElementById(id);
const TERMINAL = new Set(["done", "failed", "aborted"]);
const shown = { limit: PAGE, state: "", session: "" };

/** Makes an element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// ---- asking ----------------------------------------------------------------------------------------------------------

const token = () => sessionStorage.getItem("operator-token");

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.body && { "content-type": "application/json" }) };
  if (token()) headers.authorization = `Bearer ${token()}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.detail ?? `the registry answered ${answer.status}`);
}

const read = async (path) => (await ask(path)).json();
const order = (mission, what, body = {}) =>
  ask(`/api/v1/missions/${encodeURIComponent(mission)}/${what}`, { method: "POST", body: JSON.stringify(body) });

function complain(error) {
  if (error.status === 401) {
    sessionStorage.removeItem("operator-token");
    $("token").hidden = false;
    return;
  }
  $("trouble").textContent = error instanceof Refused ? error.message : `The registry cannot be reached: ${error.message}`;
  $("trouble").hidden = false;
}

/** Carries out what a click asks for; its button rests meanwhile. */
async function act(button, work) {
  button.disabled = true;
  $("trouble").hidden = true;
  try {
    await work();
  } catch (error) {
    complain(error);
  }
  button.disabled = false;
  hint();
}

// ---- showing ---------------------------------------------------------------------------------------------------------

function ago(time) {
  if (!time) return "";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

const since = (time) => make("time", { dateTime: time ?? "", title: time ?? "", textContent: ago(time) });
const state = (word) => make("span", { className: `state ${word}`, textContent: word.replace("hitl-required", "asks") });
const note = (text) => (text ? make("span", { className: "note", textContent: text }) : null);
const nameOf = (executors, id) => executors.find((one) => one.executor_id === id)?.name ?? id;

/** What a mission can be told in a state, and how the button reads. */
function choices(mission) {
  if (TERMINAL.has(mission.state)) return [];
  if (mission.state === "paused") return ["resume", "abort"];
  return mission.state === "running" ? ["pause", "abort"] : ["abort"];
}

function missionRow(mission, executors) {
  const id = mission.mission_id;
  const buttons = choices(mission).map((what) => {
    const button = make("button", { type: "button", textContent: what, title: `${what} ${id}` });
    button.addEventListener("click", () => {
      if (what !== "abort" || confirm(`Abort ${id}? Its processes end.`)) act(button, () => order(id, what));
    });
    return button;
  });
  const name = make("button", { type: "button", className: "name", textContent: id });
  name.addEventListener("click", () => detail(id));
  const why = mission.error ?? mission.waiting?.detail;
  return make("tr", {},
    make("td", {}, state(mission.state)),
    make("td", {}, name, note(mission.objective), note(why)),
    make("td", {}, mission.session_id),
    make("td", {}, nameOf(executors, mission.executor_id)),
    make("td", {}, since(mission.updated_at)),
    make("td", {}, ...buttons));
}

function executorRow(executor) {
  const line = executor.draining ? "draining" : executor.connected ? "connected" : "gone";
  return make("tr", {},
    make("td", {}, state(line)),
    make("td", { title: executor.executor_id }, executor.name, note(executor.version)),
    make("td", {}, String(executor.active_mission_count)),
    make("td", {}, executor.capabilities.join(" · ")),
    make("td", {}, since(executor.last_event_ts ?? executor.registered_at)));
}

function questionCard(question) {
  const box = make("input", { name: "answer", required: true, autocomplete: "off", placeholder: "your answer" });
  box.setAttribute("aria-label", `answer to ${question.mission_id}`);
  const button = make("button", { textContent: "Answer" });
  const form = make("form", {}, box, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(button, () => order(question.mission_id, "hitl_response", { hitl_id: question.hitl_id, response: box.value }));
  });
  const until = question.expires_at ? `, until ${new Date(question.expires_at).toLocaleString()}` : "";
  return make("div", { className: "question" },
    make("p", {}, question.prompt),
    note(question.context),
    make("span", { className: "note" }, `${question.mission_id} in ${question.session_id}, `, since(question.asked_at), until),
    form);
}

/** Shows a list. What has not changed keeps its element, and with it the focus, a half-typed answer, a click under way. */
function showList(place, items, keyOf, build) {
  const there = new Map([...place.children].map((element) => [element.dataset.key, element]));
  const elements = items.map((item) => {
    const key = keyOf(item);
    const element = there.get(key) ?? build(item);
    element.dataset.key = key;
    return element;
  });
  place.replaceChildren(...elements);
}

function show({ missions, next_cursor: more }, { executors }, { questions }) {
  const missionKey = (mission) => JSON.stringify([mission, nameOf(executors, mission.executor_id)]);
  showList($("missions"), missions, missionKey, (mission) => missionRow(mission, executors));
  showList($("executors"), executors, JSON.stringify, executorRow);
  showList($("questions"), questions, (question) => `${question.mission_id} ${question.hitl_id}`, questionCard);
  for (const time of document.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  $("asking").hidden = questions.length === 0;
  document.title = questions.length ? `(${questions.length}) aiwg-rs` : "aiwg-rs";
  $("nobody").hidden = executors.length > 0;
  $("empty").hidden = missions.length > 0;
  $("empty").textContent = shown.state || shown.session ? "No mission is like that." : "No mission has come yet.";
  $("more").hidden = !more;
  const connected = executors.filter((one) => one.connected).length;
  const active = executors.reduce((sum, one) => sum + one.active_mission_count, 0);
  $("counts").textContent = `${active} live, ${connected} of ${executors.length} executors connected`;
}

async function detail(id) {
  try {
    const mission = await read(`/api/v1/missions/${encodeURIComponent(id)}`);
    $("detail-title").textContent = id;
    const { recent_events: events, mission_id: _id, waiting, ...facts } = mission;
    const all = { ...facts, ...(waiting && { waits_for: waiting.detail, waits_since: waiting.since }) };
    $("facts").replaceChildren(...Object.entries(all).flatMap(([key, value]) =>
      [make("dt", { textContent: key.replaceAll("_", " ") }), make("dd", { textContent: String(value) })]));
    $("said").replaceChildren(...events.map((event) => {
      const { summary, prompt, reason, error, response } = event.data ?? {};
      const words = [summary, prompt, reason, error, response].find((text) => typeof text === "string");
      return make("li", { title: event.ts }, event.event.replace("mission.", ""), words ? `: ${words}` : "", note(ago(event.ts)));
    }));
    if (!$("detail").open) $("detail").showModal();
  } catch (error) {
    complain(error);
  }
}

// ---- keeping up ------------------------------------------------------------------------------------------------------

let planned = null;
let looked = 0;
let looking = false;
let again = false;

/** Something changed: look soon, once for all that changes meanwhile. */
function hint() {
  planned ??= setTimeout(look, GATHER);
}

async function look() {
  planned = null;
  looked = Date.now();
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  const query = new URLSearchParams({ limit: shown.limit });
  if (shown.state) query.set("state", shown.state);
  if (shown.session) query.set("session", shown.session);
  try {
    show(...(await Promise.all([`/api/v1/missions?${query}`, "/api/v1/executors", "/api/v1/hitl"].map(read))));
  } catch (error) {
    complain(error);
  }
  looking = false;
  if (again) {
    again = false;
    hint();
  }
}

function tell(is, text) {
  $("link").dataset.is = is;
  $("link").textContent = text;
}

/** Listens for ever. Read by hand, because an `EventSource` cannot show the operator token. */
async function listen() {
  for (let pause = 500; ; pause = Math.min(pause * 2, SLOWEST)) {
    try {
      const stream = (await ask("/api/v1/events")).body.getReader();
      tell("live", "live");
      $("trouble").hidden = true;
      pause = 500;
      for (hint(); !(await stream.read()).done; hint());
      tell("lost", "the registry ended; waiting for it");
    } catch (error) {
      if (error.status === 401) {
        complain(error);
        tell("lost", "the operator token is needed");
        return;
      }
      tell("lost", "no connection; trying again");
    }
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("operator-token", new FormData(event.target).get("token").trim());
  event.target.reset();
  event.target.hidden = true;
  listen();
});
$("filter").addEventListener("input", (event) => {
  Object.assign(shown, { limit: PAGE, [event.target.name]: event.target.value.trim() });
  hint();
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => {
  shown.limit = Math.min(shown.limit + PAGE, 1000);
  hint();
});
setInterval(() => {
  const isDue = !document.hidden || Date.now() - looked >= HIDDEN_SWEEP;
  if (isDue && $("link").dataset.is === "live") hint();
}, SWEEP);
document.addEventListener("visibilitychange", hint);
read("/api/health").then((health) => ($("version").textContent = health.version), () => {});
listen();
