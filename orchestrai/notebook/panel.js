// Draws the state of a call, or of quota meters. Everything that is data goes through textContent, an aria text or a
// number; there is no innerHTML, nothing is fetched, and one word is ever sent back.

const KINDS = ["answered", "reused", "failed", "skipped", "cancelled", "running", "waiting"];
const STATUS = { running: "Running", finished: "Finished", cancelled: "Cancelled", stopped: "Stopped" };
const DOTS = 12;
const REFRESH_MS = 5000;

function add(parent, tag, kind, attributes = {}) {
  const node = document.createElement(tag);
  if (kind) node.className = `oai-${kind}`;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function share(part) {
  return `${100 * Math.max(0, Math.min(1, Number(part) || 0))}%`;
}

// Keep one child for each item and fill it; nothing is built anew, so nothing flickers and a focus is not lost.
function fill(parent, items, make, draw) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) {
    const node = make();
    parent.append(node);
  }
  items.forEach((item, i) => draw(parent.children[i], item, i));
  parent.hidden = items.length === 0;
}

// Call `draw` whenever the state changes or the connection is lost; return whether it is, and what stops that.
function follow(model, draw) {
  const link = {
    lost: false,
    leave() {
      model.off("change:state", changed);
      model.off("comm_live_update", unplugged);
    },
  };
  function changed() {
    link.lost = false; // a state can only come over a living connection
    draw();
  }
  function unplugged() {
    link.lost = true;
    draw();
  }
  model.on("change:state", changed);
  model.on("comm_live_update", unplugged);
  return link;
}

function makeMeter() {
  const node = add(null, "div", "window");
  const label = add(node, "span", "window-label");
  const gauge = add(node, "span", "gauge", { role: "meter", "aria-valuemin": "0", "aria-valuemax": "100" });
  const level = add(gauge, "span", "level");
  const value = add(node, "span", "window-value");
  const until = add(node, "span", "quiet");
  node.parts = { label, gauge, level, value, until };
  return node;
}

function drawMeter(node, { label, percent, until }, whose) {
  const { parts } = node;
  const known = percent !== null;
  const used = known ? Math.round(percent) : 0;
  say(parts.label, label);
  say(parts.value, known ? `${used} %` : "unknown");
  say(parts.until, until ? `until ${until}` : "");
  parts.gauge.setAttribute("aria-label", `${whose}: ${label}`);
  parts.gauge.setAttribute("aria-valuenow", String(Math.min(100, used)));
  parts.gauge.setAttribute("aria-valuetext", known ? `${used} percent used` : "unknown");
  parts.level.style.width = share(used / 100);
  parts.level.className = `oai-level ${used >= 90 ? "oai-full" : used >= 80 ? "oai-near" : ""}`;
}

function makePlatform() {
  const node = add(null, "div", "platform", { role: "listitem" });
  const who = add(node, "div", "who");
  const name = add(who, "span", "name");
  const model = add(who, "span", "quiet");
  const now = add(node, "div", "now");
  const places = add(now, "span", "places", { "aria-hidden": "true" });
  const facts = add(now, "span", "facts");
  const windows = add(node, "div", "windows");
  node.parts = { name, model, places, facts, windows };
  return node;
}

function drawPlatform(node, platform, over) {
  const { parts } = node;
  const resting = Boolean(platform.rest) && !over;
  say(parts.name, platform.name);
  say(parts.model, platform.model);
  const dots = over || resting || platform.places > DOTS ? 0 : platform.places;
  fill(parts.places, Array(dots).fill(0), () => add(null, "i"), (dot, _, i) => {
    dot.className = i < platform.in_flight ? "oai-place oai-lit" : "oai-place";
  });
  const facts = [];
  if (resting) facts.push(platform.rest);
  else if (!over) facts.push(`${platform.in_flight} of ${platform.places} in flight`);
  facts.push(`${platform.answers} answered`);
  if (!over && platform.waiting) facts.push(`${platform.waiting} waiting`);
  if (!over && platform.pace) facts.push(platform.pace);
  say(parts.facts, facts.join(" · "));
  node.classList.toggle("oai-resting", resting);
  fill(parts.windows, platform.windows, makeMeter, (meter, w) => drawMeter(meter, w, platform.name));
}

function makeLegend() {
  const node = add(null, "span", "item");
  node.parts = { key: add(node, "i", "key", { "aria-hidden": "true" }), words: add(node, "span") };
  return node;
}

function makeFigure() {
  const node = add(null, "div", "figure");
  node.parts = { title: add(node, "span", "quiet"), value: add(node, "span", "value") };
  return node;
}

function makeError() {
  const node = add(null, "div", "error");
  node.parts = { kind: add(node, "span", "error-kind"), newest: add(node, "span", "error-text") };
  return node;
}

function renderCall(model, host) {
  const root = add(host, "section", "panel", { role: "group" });
  const head = add(root, "header", "head");
  const title = add(head, "div", "title");
  const status = add(title, "span", "status", { role: "status", "aria-live": "polite" });
  const name = add(title, "span", "batch");
  const step = add(title, "span", "quiet");
  const cancel = add(head, "button", "cancel", { type: "button" });
  say(cancel, "Cancel");
  const overall = add(root, "div", "overall");
  const percent = add(overall, "span", "percent");
  const done = add(overall, "span", "done");
  const left = add(overall, "span", "left");
  const bar = add(root, "div", "bar", { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
  const legend = add(root, "div", "legend");
  const figures = add(root, "div", "figures");
  const platforms = add(root, "div", "platforms", { role: "list", "aria-label": "Platforms" });
  const budgets = add(root, "div", "windows oai-budgets");
  const failures = add(root, "details", "failures");
  const summary = add(failures, "summary");
  const errors = add(failures, "div", "errors");
  const note = add(root, "div", "note");

  const link = follow(model, draw);
  let pressed = false;

  function draw() {
    const state = model.get("state");
    const over = state.status !== "running";
    const gone = link.lost && !over;
    const ended = over || gone; // then nothing is under way, and nothing is left to wait for
    root.dataset.status = gone ? "lost" : state.status;
    root.setAttribute("aria-label", state.title ? `Progress of ${state.title}` : "Progress");
    say(status, gone ? "Not connected" : pressed && !over ? "Cancelling" : (STATUS[state.status] ?? state.status));
    say(name, state.title);
    say(step, state.step);
    cancel.hidden = ended;
    cancel.disabled = pressed;
    say(percent, state.percent === null ? "" : `${Math.floor(state.percent)} %`);
    say(done, state.done);
    say(left, ended ? "" : state.left);

    const shares = KINDS.map((kind) => state.shares.find((part) => part[0] === kind)).filter(Boolean);
    fill(bar, shares, () => add(null, "span"), (part, [kind, , size]) => {
      part.className = `oai-part oai-${kind}`;
      part.style.width = share(size);
    });
    bar.hidden = false;
    bar.setAttribute("aria-label", "Tasks settled");
    bar.setAttribute("aria-valuenow", String(Math.floor(state.percent ?? 0)));
    bar.setAttribute("aria-valuetext", [state.done, ended ? "" : state.left].filter(Boolean).join(", "));
    fill(legend, shares, makeLegend, ({ parts }, [kind, count]) => {
      parts.key.className = `oai-key oai-${kind}`;
      say(parts.words, `${count} ${kind}`);
    });
    fill(figures, state.figures, makeFigure, ({ parts }, [what, value]) => {
      say(parts.title, what);
      say(parts.value, value);
    });
    fill(platforms, state.platforms, makePlatform, (node, platform) => drawPlatform(node, platform, ended));
    fill(budgets, state.budgets, makeMeter, (meter, w) => drawMeter(meter, w, "Budget"));
    failures.hidden = state.errors.length === 0;
    say(summary, `Without an answer: ${state.errors.map((error) => `${error[1]} ${error[0]}`).join(", ")}`);
    fill(errors, state.errors, makeError, ({ parts }, [kind, count, newest]) => {
      say(parts.kind, `${count} × ${kind}`);
      say(parts.newest, newest);
    });
    note.hidden = !gone;
    say(note, gone ? "The kernel is gone. Run the cell again: what is finished is in the ledger, at no cost." : "");
  }

  cancel.addEventListener("click", () => {
    pressed = true;
    model.send({ do: "cancel" });
    draw();
  });
  draw();
  return link.leave;
}

function renderQuota(model, host) {
  const root = add(host, "section", "panel", { role: "group", "aria-label": "Quota" });
  const none = add(root, "div", "quiet");
  const owners = add(root, "div", "platforms", { role: "list", "aria-label": "Quota windows and budgets" });
  const note = add(root, "div", "note");
  say(note, "The kernel is gone. These are the last figures that it told.");

  const link = follow(model, draw);

  function makeOwner() {
    const node = add(null, "div", "platform", { role: "listitem" });
    const name = add(add(node, "div", "who"), "span", "name");
    node.parts = { name, windows: add(node, "div", "windows") };
    return node;
  }

  function draw() {
    const { quota, nothing } = model.get("state");
    say(none, quota.length ? "" : nothing);
    none.hidden = quota.length > 0;
    fill(owners, quota, makeOwner, ({ parts }, [name, windows]) => {
      say(parts.name, name);
      fill(parts.windows, windows, makeMeter, (meter, w) => drawMeter(meter, w, name));
    });
    note.hidden = !link.lost;
  }

  // Meters are read while there is a kernel and somebody can see them, and no longer.
  const timer = setInterval(() => {
    if (!link.lost && root.isConnected && document.visibilityState === "visible") model.send({ do: "refresh" });
  }, REFRESH_MS);
  draw();
  return () => {
    clearInterval(timer);
    link.leave();
  };
}

export default {
  render({ model, el }) {
    el.classList.add("oai-host");
    return model.get("state").quota ? renderQuota(model, el) : renderCall(model, el);
  },
};
