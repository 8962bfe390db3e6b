// What the Erase node found is shown on it: before and after behind a line to drag, what was done, and what a LoRA behind
// the node brings back. Without this file the same text leaves by the output "report".
import { app } from "../../scripts/app.js";
import { addPanel, fit, kindOf, make } from "./parts.js";
import { KIND } from "./rows.js";
import { say, whenTranslated } from "./texts.js";

// properties, so that all is there again after a reload
const REPORT = "erase_report", PICTURES = "erase_pictures", BACK = "erase_back";
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

function report(node) {
  const panel = make("div", { class: "erase-panel" });
  let height = TEXT;
  addPanel(node, REPORT, panel, () => height);
  return () => {
    const back = node.properties[BACK] ?? [];
    const text = String(node.properties[REPORT] ?? say("Run the graph to see how much of each concept is left."));
    panel.replaceChildren(
      ...back.map((line) => make("div", { class: "erase-back", role: "alert" }, line)),
      make("div", { class: "erase-report" }, text),
    );
    height = TEXT + 56 * Math.min(back.length, 3);
    panel.style.minHeight = panel.style.maxHeight = `${height}px`;
    fit(node);
  };
}

function addResult(node) {
  if (typeof node.addDOMWidget !== "function") return;
  const parts = [slider(node), report(node)];
  const show = () => parts.forEach((draw) => draw());
  const { onExecuted, onConfigure, onConnectionsChange } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    if (output?.text) {
      node.properties[REPORT] = output.text.join("\n");
      node.properties[BACK] = output.erase_back ?? [];
      node.properties[PICTURES] = output.erase_pictures?.[0];
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
  whenTranslated(show);
}

app.registerExtension({
  name: "ErasePlugins.Result",
  nodeCreated(node) {
    if (kindOf(node) === KIND) addResult(node);
  },
});
