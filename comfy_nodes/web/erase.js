// Comfort for the erase nodes in the browser, and the question before anything is published. Every node works without
// this file, but then nothing can be published from the editor.
// Declared hooks only: no prototype is patched and nothing is drawn on the canvas.
import { app } from "../../scripts/app.js";

const ROUTE = "/erase_plugins/artifact";
const WRITES_FILES = new Set(["EraseHubPull", "EraseSaveArtifact"]);
const LOADER = "EraseLoadArtifact";

/** Id of the class of a node. */
function kindOf(node) {
  return String(node?.comfyClass ?? node?.type ?? "");
}

/** Nodes of a graph, those in its subgraphs included. */
function allNodes(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph)]);
}

function tell(severity, summary, detail) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life: 9000 });
}

async function ask(name, options) {
  const answer = await app.api.fetchApi(`${ROUTE}?name=${encodeURIComponent(name)}`, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

// --- lists of artifacts are read again when a node wrote one -------------------------------------------------------

let refreshing;

function refreshSoon() {
  clearTimeout(refreshing);
  refreshing = setTimeout(() => app.refreshComboInNodes?.(), 300);
}

function onExecuted({ detail }) {
  const id = String(detail?.display_node ?? detail?.node ?? "");
  const node = app.graph?.nodes?.find((item) => String(item.id) === id);
  if (node && WRITES_FILES.has(kindOf(node))) refreshSoon();
}

// --- concept chips: a click switches a line of the text box off and on ---------------------------------------------

function lines(text) {
  return text.split("\n").flatMap((line, index) => {
    const off = /^\s*#\s*/.test(line);
    const name = line.replace(/^\s*#\s*/, "").split("#")[0].trim();
    return name ? [{ index, off, name }] : [];
  });
}

function toggled(text, index) {
  const all = text.split("\n");
  all[index] = /^\s*#/.test(all[index]) ? all[index].replace(/^\s*#\s*/, "") : `# ${all[index].trim()}`;
  return all.join("\n");
}

function addChips(node) {
  const box = node.widgets?.find((widget) => widget.name === "erase");
  if (!box || typeof node.addDOMWidget !== "function") return;
  const row = document.createElement("div");
  row.className = "erase-chips";
  row.style.cssText = "display:flex;flex-wrap:wrap;gap:4px;overflow:auto;align-content:flex-start;font-size:11px";
  let shown;
  const draw = () => {
    const text = String(box.value ?? "");
    if (text === shown) return;
    shown = text;
    row.replaceChildren(
      ...lines(text).map(({ index, off, name }) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.textContent = name;
        chip.title = off ? "off; click to erase it" : "erased; click to switch it off";
        chip.setAttribute("aria-pressed", String(!off));
        chip.style.cssText =
          "border:1px solid currentColor;border-radius:9px;padding:0 8px;background:none;cursor:pointer;color:inherit;" +
          (off ? "opacity:.45;text-decoration:line-through" : "");
        chip.addEventListener("click", () => {
          box.value = toggled(String(box.value ?? ""), index);
          box.callback?.(box.value);
          draw();
        });
        return chip;
      }),
    );
  };
  const chips = node.addDOMWidget("erase_chips", "erase_chips", row, {
    serialize: false,
    hideOnZoom: true,
    getMinHeight: () => 24,
    getMaxHeight: () => 48,
    getValue: () => "",
    setValue: () => {},
  });
  chips.serialize = false; // values of saved workflows are found by place
  // looked at now and then: there is no event for a value that was typed, loaded, pasted or undone
  let placed = false;
  const timer = setInterval(() => {
    placed ||= Boolean(node.graph);
    if (placed && !node.graph) clearInterval(timer);
    else draw();
  }, 400);
  draw();
}

// --- workflows of older versions hold what the editor did with a seed after a run, one value behind the seed ---------

const SEEDS = new Set(["seed", "noise_seed"]);
const AFTER_RUN = new Set(["fixed", "increment", "decrement", "randomize"]);

/** The place of a widget among the saved values of a node; -1 if it has none. */
function placeOf(node, wanted) {
  return (node.widgets ?? []).filter((widget) => widget.serialize !== false).findIndex((widget) => wanted(widget.name));
}

/** The saved values of a node without the one that no longer has a widget. */
function withoutControl(node, values) {
  const seed = placeOf(node, (name) => SEEDS.has(name));
  return seed >= 0 && AFTER_RUN.has(values[seed + 1]) ? values.toSpliced(seed + 1, 1) : values;
}

/** The saved values of a node with "publish" off: files come from strangers, the login is that of this person. */
function withoutPublish(node, values) {
  const place = PUBLISHERS.has(kindOf(node)) ? placeOf(node, (name) => name === "publish") : -1;
  return place >= 0 && place < values.length ? values.with(place, false) : values;
}

/** Looks at what is loaded, pasted or undone before the editor does, which fills in values by their place. */
function watchLoading(node) {
  const { configure } = node;
  node.configure = function (saved, ...more) {
    const values = saved?.widgets_values;
    if (!Array.isArray(values)) return configure.call(this, saved, ...more);
    return configure.call(this, { ...saved, widgets_values: withoutPublish(node, withoutControl(node, values)) }, ...more);
  };
}

// --- publishing: a run prepares an offer, and the person who looks at this page accepts it or not --------------------

const PUBLISHERS = new Set(["EraseHubPush"]);
const waiting = [];
let asking = false;

async function settle(key, send) {
  const answer = await app.api.fetchApi("/erase_plugins/publish", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key, send }),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

function line(tag, text, style = "") {
  const element = document.createElement(tag);
  element.textContent = text; // names come from files of strangers
  element.style.cssText = style;
  return element;
}

/** Shows an offer; true if the person wants it sent. Enter, Escape and everything but the button mean no. */
function wanted(offer) {
  const box = document.createElement("dialog");
  box.className = "erase-publish";
  box.style.cssText =
    "max-width:min(640px,90vw);max-height:80vh;overflow:auto;padding:20px;border-radius:8px;border:1px solid #888;" +
    "font:14px/1.5 sans-serif;background:var(--comfy-menu-bg,#222);color:var(--input-text,#ddd)";
  const place = `${offer.new ? "new, " : ""}${offer.private ? "private" : "public"}`;
  const what = `${offer.artifact}: ${offer.files.length} files, ${Number(offer.bytes).toLocaleString("en")} bytes`;
  const list = [
    ...offer.files.map((file) => `${file.state} ${file.name} (${Number(file.bytes).toLocaleString("en")} bytes)`),
    ...offer.removed.map((name) => `removed ${name}`),
  ];
  const no = line("button", "Do not publish", "padding:6px 14px;cursor:pointer");
  const yes = line("button", "Publish", "padding:6px 14px;cursor:pointer");
  const row = line("div", "", "display:flex;gap:10px;justify-content:flex-end;margin-top:14px");
  row.append(no, yes);
  box.append(
    line("h3", "Publish on the Hugging Face Hub?", "margin:0 0 8px;font-size:17px"),
    line("div", `${offer.repo} (${place})${offer.create_pr ? ", as a pull request" : ""}`, "font-weight:bold"),
    line("div", offer.account ? `with the login of ${offer.account}` : "with the login of this computer"),
    line("div", what),
    line("div", `message: ${offer.message}`),
    line("pre", list.join("\n"), "white-space:pre-wrap;overflow-wrap:anywhere;max-height:40vh;overflow:auto"),
    row,
  );
  document.body.append(box);
  return new Promise((resolve) => {
    const end = (answer) => {
      box.remove();
      resolve(answer);
    };
    no.addEventListener("click", () => end(false));
    yes.addEventListener("click", (event) => end(event.isTrusted));
    box.addEventListener("cancel", () => end(false));
    for (const kind of ["keydown", "keyup", "keypress"]) box.addEventListener(kind, (event) => event.stopPropagation());
    box.showModal();
    no.focus();
  });
}

function switchOff() {
  for (const node of allNodes(app.graph)) {
    const widget = PUBLISHERS.has(kindOf(node)) && node.widgets?.find((item) => item.name === "publish");
    if (widget) {
      widget.value = false;
      widget.callback?.(false);
    }
  }
}

async function onOffer({ detail }) {
  if (typeof detail?.key !== "string") return;
  waiting.push(detail);
  if (asking) return;
  asking = true;
  try {
    while (waiting.length) {
      const offer = waiting.shift();
      const send = await wanted(offer);
      // whoever says no is not asked about the rest of the same run
      const dropped = send ? [] : waiting.splice(0);
      await Promise.allSettled(dropped.map((item) => settle(item.key, false)));
      try {
        const { text } = await settle(offer.key, send);
        tell(send ? "success" : "info", offer.repo, text);
      } catch (error) {
        tell("error", offer.repo, error.message);
      }
    }
  } finally {
    asking = false;
    switchOff();
  }
}

// --- "what does this erase?" ---------------------------------------------------------------------------------------

async function explain(name) {
  try {
    const found = await ask(name);
    tell("info", found.name, found.text);
  } catch (error) {
    tell("warn", QUESTION, error.message);
  }
}

const QUESTION = "What does this erase?";
const COMMAND = "ErasePlugins.Explain";

/** The artifact that a node names; undefined for other nodes. */
function artifactOf(node) {
  if (!kindOf(node).startsWith("Erase")) return undefined;
  return node.widgets?.find((item) => item.name === "artifact")?.value;
}

function menuItems(node) {
  const name = artifactOf(node);
  return name === undefined ? [] : [{ content: QUESTION, callback: () => explain(String(name)) }];
}

// the same above a selected node: the Vue nodes of older editors have a menu of their own
function explainSelected() {
  for (const node of app.canvas?.selectedItems ?? []) {
    const name = artifactOf(node);
    if (name !== undefined) explain(String(name));
  }
}

// --- an artifact dropped on the canvas becomes a node that loads it ------------------------------------------------

/** Whether the header of a safetensors file holds our manifest. */
async function isArtifact(file) {
  const first = new DataView(await file.slice(0, 8).arrayBuffer());
  const length = first.byteLength === 8 ? Number(first.getBigUint64(0, true)) : 0;
  if (!length || length > 100_000_000 || length > file.size) return false;
  try {
    return "erase_plugins.manifest" in (JSON.parse(await file.slice(8, 8 + length).text()).__metadata__ ?? {});
  } catch {
    return false;
  }
}

async function takeIn(file, place) {
  if (!(await isArtifact(file))) {
    app.handleFile?.(file);
    return;
  }
  try {
    const { name } = await ask(file.name, { method: "POST", body: file });
    await app.refreshComboInNodes?.();
    const node = globalThis.LiteGraph.createNode(LOADER);
    node.pos = place;
    app.graph.add(node);
    const widget = node.widgets.find((item) => item.name === "artifact");
    widget.value = name;
    widget.callback?.(name);
    tell("success", name, "is in models/erase_plugins now; connect model and clip");
  } catch (error) {
    tell("error", file.name, error.message);
  }
}

function onDrop(event) {
  const files = [...(event.dataTransfer?.files ?? [])];
  if (files.length !== 1 || !files[0].name.endsWith(".safetensors")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const box = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const place = [(event.clientX - box.left) / scale - offset[0], (event.clientY - box.top) / scale - offset[1]];
  takeIn(files[0], place);
}

app.registerExtension({
  name: "ErasePlugins.Comfort",
  setup() {
    app.api.addEventListener("executed", onExecuted);
    app.api.addEventListener("erase_plugins.publish", onOffer);
    window.addEventListener("drop", onDrop, { capture: true });
  },
  nodeCreated(node) {
    if (!kindOf(node).startsWith("Erase")) return;
    node.properties.cnr_id ??= "erase-plugins"; // an editor without this pack tells the name
    watchLoading(node);
    addChips(node);
  },
  getNodeMenuItems: menuItems,
  commands: [{ id: COMMAND, label: QUESTION, icon: "pi pi-eraser", function: explainSelected }],
  getSelectionToolboxCommands: (item) => (artifactOf(item) === undefined ? [] : [COMMAND]),
});
