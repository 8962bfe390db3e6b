// What the Erase node found is shown on it: before and after behind a line to drag, what was done, and what a LoRA behind
// the node brings back; other nodes that end a graph show their report. Without this file the same text leaves by the
// output "report".
import { app } from "../../scripts/app.js";
import { addPanel, fit, kindOf, make, nodeById } from "./parts.js";
import { KIND } from "./rows.js";
import { say, whenTranslated } from "./texts.js";

// properties, so that all is there again after a reload
const REPORT = "erase_report", PICTURES = "erase_pictures", BACK = "erase_back", ASKED = "erase_asked";
/** Node -> what tells on it why its run ended. Newer editors hide the reason behind "View details". */
const ended = new WeakMap();
const HIGH = 220, LOW = 44, TEXT = 84;

const address = ({ filename, subfolder, type }) =>
  app.api.apiURL(`/view?${new window.URLSearchParams({ filename, subfolder: subfolder ?? "", type: type ?? "temp" })}`);

function slider(node) {
  const panel = make("div", { class: "erase-panel" });
  let share = 0.5, height = LOW, shown;

  function draw() {
    const [before, after] = node.properties[PICTURES]?.images ?? [];
    const drawn = before && after;
    const linked = node.inputs?.some((input) => input.name === "vae" && input.link !== null && input.link !== undefined);
    const now = JSON.stringify([node.properties[PICTURES], linked, say("before")]);
    if (now === shown) return; // a hand may be on the line
    shown = now;
    height = drawn ? HIGH : LOW;
    panel.style.minHeight = panel.style.maxHeight = `${height}px`;
    const box = make("div", { class: "erase-slider" });
    panel.replaceChildren(box);
    if (!drawn) {
      const hint = linked ? say("run the graph to see before and after") : say("connect vae to see before and after here");
      box.append(make("div", { class: "empty" }, hint));
      fit(node);
      return;
    }
    const lost = () => {
      node.properties[PICTURES] = undefined; // temporary files go with the server
      draw();
    };
    // as large as the picture, so that the line and the words lie on it
    const shape = ({ target }) => box.style.setProperty("--ratio", String(target.naturalWidth / target.naturalHeight));
    box.classList.add("drawn");
    box.style.setProperty("--high", `${HIGH}px`);
    box.style.setProperty("--ratio", "1");
    const first = make("img", { src: address(before), alt: say("before"), on: { error: lost, load: shape } });
    const second = make("img", { src: address(after), alt: say("after"), on: { error: lost } });
    const bar = make("div", { class: "line" });
    const place = (value) => {
      share = Math.min(1, Math.max(0, value));
      second.style.clipPath = `inset(0 0 0 ${100 * share}%)`;
      bar.style.left = `${100 * share}%`;
      box.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    };
    const follow = (event) => {
      const rectangle = box.getBoundingClientRect();
      place((event.clientX - rectangle.left) / rectangle.width);
    };
    for (const [name, value] of Object.entries({
      role: "slider", tabindex: "0", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": say("before and after"),
    })) box.setAttribute(name, value);
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      box.setPointerCapture(event.pointerId);
      follow(event);
    });
    box.addEventListener("pointermove", (event) => box.hasPointerCapture(event.pointerId) && follow(event));
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      place(share + step);
    });
    const { prompt, seed } = node.properties[PICTURES];
    box.title = say("'%s', both from seed %s; drag to compare", prompt, seed);
    const [left, right] = [make("span", { class: "tag" }, say("before")), make("span", { class: "tag" }, say("after"))];
    [left.style.left, right.style.right] = ["4px", "4px"];
    box.append(first, second, bar, left, right);
    place(share);
    fit(node);
  }

  addPanel(node, PICTURES, panel, () => height);
  return draw;
}

function report(node, textOf) {
  const panel = make("div", { class: "erase-panel" });
  let height = 0;
  addPanel(node, REPORT, panel, () => height);
  return (failed = "") => {
    const told = failed ? [failed] : (node.properties[BACK] ?? []);
    const text = String(textOf());
    panel.replaceChildren(
      ...told.map((line) => make("div", { class: "erase-back", role: "alert" }, line)),
      make("div", { class: "erase-report" }, text),
    );
    height = text || told.length ? TEXT + 56 * Math.min(told.length, 3) : 0;
    panel.style.display = height ? "" : "none";
    panel.style.minHeight = panel.style.maxHeight = `${height}px`;
    fit(node);
  };
}

/** What the node is asked for: a result that answers something else is pale. */
function asked(node) {
  const own = (node.widgets ?? []).filter((widget) => widget.serialize !== false && widget.name !== "behind");
  return JSON.stringify(own.map((widget) => widget.value));
}

function fade(node) {
  const old = node.properties[ASKED] !== undefined && node.properties[ASKED] !== asked(node);
  for (const { element } of node.widgets ?? []) {
    if (!element?.classList?.contains("erase-panel")) continue;
    element.classList.toggle("erase-old", old);
    element.title = old ? say("of the run before your last change") : "";
  }
}

function addResult(node) {
  if (typeof node.addDOMWidget !== "function") return;
  const hint = () => node.properties[REPORT] ?? say("Run the graph to see how much of each concept is left.");
  const parts = [slider(node), report(node, hint)];
  const show = () => {
    parts.forEach((draw) => draw());
    fade(node);
  };
  const { onExecuted, onConfigure, onConnectionsChange } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    if (output?.text) {
      node.properties[REPORT] = output.text.join("\n");
      node.properties[BACK] = output.erase_back ?? [];
      node.properties[PICTURES] = output.erase_pictures?.[0];
      node.properties[ASKED] = asked(node);
    }
    show();
  };
  node.onConfigure = function (...more) {
    onConfigure?.apply(this, more);
    show();
  };
  node.onConnectionsChange = function (...more) {
    onConnectionsChange?.apply(this, more);
    parts[0]();
  };
  ended.set(node, parts[1]);
  whenTranslated(show);
  setTimeout(() => { // when the other scripts have put their widgets in place
    for (const widget of node.widgets ?? []) {
      const { callback } = widget;
      widget.callback = function (...values) {
        const given = callback?.apply(this, values);
        fade(node);
        return given;
      };
    }
  });
}

/** Other nodes that end a graph say their report on themselves, unless a wire takes it on; it is not saved. */
function addReport(node) {
  if (typeof node.addDOMWidget !== "function") return;
  let text = "";
  const draw = report(node, () => text);
  const { onExecuted } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    const taken = node.outputs?.find((item) => item.name === "report")?.links?.length;
    text = taken ? "" : (output?.text ?? []).join("\n");
    draw();
  };
  ended.set(node, draw);
  draw();
  node.setSize?.([Math.max(node.size[0], 280), node.size[1]]);
}

app.registerExtension({
  name: "ErasePlugins.Result",
  setup() {
    let failed;
    app.api.addEventListener("execution_error", ({ detail }) => {
      const node = nodeById(detail?.node_id);
      if (kindOf(node) !== detail?.node_type) return; // it ran in a workflow that is not the open one
      failed = node;
      ended.get(failed)?.(String(detail?.exception_message ?? "").trim());
    });
    app.api.addEventListener("execution_start", () => ended.get(failed)?.());
  },
  nodeCreated(node) {
    if (kindOf(node) === KIND) addResult(node);
    else if (kindOf(node).startsWith("Erase") && node.constructor.nodeData?.output_node) addReport(node);
  },
});
