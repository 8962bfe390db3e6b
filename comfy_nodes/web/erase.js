// Comfort for the erase nodes in the browser. Every node works without this file.
// Declared hooks only: no prototype is patched and nothing is drawn on the canvas.
import { app } from "../../scripts/app.js";
import { kindOf, nodeById, tell, widgetOf } from "./parts.js";
import { KIND } from "./rows.js";
import { say } from "./texts.js";

const ROUTE = "/erase_plugins/artifact";
const WRITES_FILES = new Set(["EraseHubPull", "EraseSaveArtifact"]);
const LOADER = "EraseLoadArtifact";

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
  const node = nodeById(detail?.display_node ?? detail?.node);
  if (node && WRITES_FILES.has(kindOf(node))) refreshSoon();
}

// --- concept chips: a click switches a line of the text box off and on ---------------------------------------------

function lines(text) {
  return text.split("\n").flatMap((line, index) => {
    const off = /^\s*#\s*/.test(line);
    const name = line.replace(/^\s*#\s*/, "").split(/\s#/)[0].trim();
    return name ? [{ index, off, name }] : [];
  });
}

function toggled(text, index) {
  const all = text.split("\n");
  all[index] = /^\s*#/.test(all[index]) ? all[index].replace(/^\s*#\s*/, "") : `# ${all[index].trim()}`;
  return all.join("\n");
}

function addChips(node) {
  const box = widgetOf(node, "erase");
  if (!box || kindOf(node) === KIND || typeof node.addDOMWidget !== "function") return;
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
        chip.title = off ? say("off: click to erase it") : say("erased: click to switch it off");
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
  // typed and pasted texts come by the callback, loaded and undone ones by the node
  const { callback } = box, { onConfigure } = node;
  box.callback = function (...values) {
    const given = callback?.apply(this, values);
    draw();
    return given;
  };
  node.onConfigure = function (...values) {
    onConfigure?.apply(this, values);
    draw();
  };
  draw();
}

// --- "what does this erase?" ---------------------------------------------------------------------------------------

async function explain(name) {
  try {
    const found = await ask(name);
    tell("info", found.name, found.text);
  } catch (error) {
    tell("warn", say("What does this erase?"), error.message);
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
  return name === undefined ? [] : [{ content: say("What does this erase?"), callback: () => explain(String(name)) }];
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

async function takeIn(file, place, others) {
  if (!(await isArtifact(file))) return others();
  try {
    const { name } = await ask(file.name, { method: "POST", body: file });
    await app.refreshComboInNodes?.();
    const node = globalThis.LiteGraph.createNode(LOADER);
    node.pos = place;
    (app.canvas?.graph ?? app.graph).add(node); // the subgraph that is open
    const widget = node.widgets.find((item) => item.name === "artifact");
    widget.value = name;
    widget.callback?.(name);
    tell("success", name, say("is in models/erase_plugins now; connect model and clip"));
  } catch (error) {
    tell("error", file.name, error.message);
  }
}

const given = new WeakSet(); // drops that turned out to be those of others

/** The same drop once more, for whoever takes such a file: the editor, a node or the panel of another pack. */
function again(event, file) {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(file);
  const { clientX, clientY } = event, drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true, clientX, clientY });
  given.add(drop);
  event.target.dispatchEvent(drop);
}

function onDrop(event) {
  const files = [...(event.dataTransfer?.files ?? [])];
  if (given.has(event)) return;
  if (files.length !== 1 || !files[0].name.endsWith(".safetensors")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const box = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const place = [(event.clientX - box.left) / scale - offset[0], (event.clientY - box.top) / scale - offset[1]];
  const { target, clientX, clientY } = event;
  takeIn(files[0], place, () => again({ target, clientX, clientY }, files[0]));
}

app.registerExtension({
  name: "ErasePlugins.Comfort",
  setup() {
    app.api.addEventListener("executed", onExecuted);
    window.addEventListener("drop", onDrop, { capture: true });
  },
  nodeCreated(node) {
    if (!kindOf(node).startsWith("Erase")) return;
    node.properties.cnr_id ??= "erase-plugins"; // an editor without this pack tells the name
    addChips(node);
  },
  getNodeMenuItems: menuItems,
  commands: [{ id: COMMAND, label: QUESTION, icon: "pi pi-eraser", function: explainSelected }],
  getSelectionToolboxCommands: (item) => (artifactOf(item) === undefined ? [] : [COMMAND]),
});
